"""The matrix of db/README.md names all that a table can have, as far as PostgreSQL's catalogs tell, and what is tested."""

from __future__ import annotations

import re

from conftest import ROOT
from local_supabase import Cluster
from tables import CARRIED, REFUSED, SINCE

# Catalogs whose rows other rows may depend on, or that depend on others (pg_depend's classes), and that hold no part of a table
# and cannot depend on one but through a function or the type of its rows.
APART = """
    pg_am pg_amop pg_amproc pg_auth_members pg_authid pg_cast pg_collation pg_conversion pg_database pg_default_acl pg_enum
    pg_event_trigger pg_extension pg_foreign_data_wrapper pg_foreign_server pg_language pg_largeobject_metadata pg_namespace
    pg_opclass pg_operator pg_opfamily pg_parameter_acl pg_publication pg_publication_namespace pg_subscription pg_tablespace
    pg_transform pg_ts_config pg_ts_dict pg_ts_parser pg_ts_template pg_user_mapping
"""

# Where a later version adds a column, a table may have something that we do not carry over.
COLUMNS = {
    "pg_class": """oid relname relnamespace reltype reloftype relowner relam relfilenode reltablespace relpages reltuples relallvisible
        relallfrozen reltoastrelid relhasindex relisshared relpersistence relkind relnatts relchecks relhasrules relhastriggers
        relhassubclass relrowsecurity relforcerowsecurity relispopulated relreplident relispartition relrewrite relfrozenxid
        relminmxid relacl reloptions relpartbound""",
    "pg_attribute": """attrelid attname atttypid attlen attnum attcacheoff atttypmod attndims attbyval attalign attstorage attcompression
        attnotnull atthasdef atthasmissing attidentity attgenerated attisdropped attislocal attinhcount attcollation attstattarget
        attacl attoptions attfdwoptions attmissingval""",
    "pg_index": """indexrelid indrelid indnatts indnkeyatts indisunique indnullsnotdistinct indisprimary indisexclusion indimmediate
        indisclustered indisvalid indcheckxmin indisready indislive indisreplident indkey indcollation indclass indoption indexprs
        indpred""",
    "pg_trigger": """oid tgrelid tgparentid tgname tgfoid tgtype tgenabled tgisinternal tgconstrrelid tgconstrindid tgconstraint
        tgdeferrable tginitdeferred tgnargs tgattr tgargs tgqual tgoldtable tgnewtable""",
    "pg_policy": "oid polname polrelid polcmd polpermissive polroles polqual polwithcheck",
    "pg_statistic_ext": "oid stxrelid stxname stxnamespace stxowner stxkeys stxstattarget stxkind stxexprs",
    "pg_sequence": "seqrelid seqtypid seqstart seqincrement seqmax seqmin seqcache seqcycle",
    "pg_publication_rel": "oid prpubid prrelid prqual prattrs",
}


def rows() -> list[list[str]]:
    """The matrix, cell by cell."""
    text = (ROOT / "db" / "README.md").read_text().partition("| kind | in the catalogs |")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]


def test_the_matrix_has_what_is_tested() -> None:
    """Each kind, with what the tests of that name show."""
    kinds = {re.sub(r" \(\d+\)$", "", row[0]): row[2:] for row in rows()}
    later = [kind for kinds_since in SINCE.values() for kind in kinds_since]
    assert {kind for kind, cells in kinds.items() if cells == ["yes", "yes"]} == {*CARRIED, *later}
    assert {kind for kind, cells in kinds.items() if cells == ["refused", ""]} == set(REFUSED)
    assert len(kinds) == len(rows())


def test_no_catalog_is_forgotten(cluster: Cluster) -> None:
    """Whatever may depend on a table is in the matrix, or is known to hold nothing of it."""
    named = set(re.findall(r"pg_\w+", " ".join(row[1] for row in rows())))
    query = """
        select c.relname from pg_class as c
        inner join pg_attribute as a on a.attrelid = c.oid and a.attname = 'oid'
        where c.relnamespace = 'pg_catalog'::regnamespace and c.relkind = 'r'
    """
    with cluster.connect() as connection:
        classes = {row[0] for row in connection.execute(query)}
    assert classes - named - set(APART.split()) == set()
    assert named & set(APART.split()) == set()


def test_no_setting_is_forgotten(cluster: Cluster) -> None:
    query = "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0"
    with cluster.connect() as connection:
        for catalog, known in COLUMNS.items():
            assert {row[0] for row in connection.execute(query, [catalog])} - set(known.split()) == set(), catalog
