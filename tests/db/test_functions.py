"""What holds for each of our functions, whatever it does."""

from __future__ import annotations

import re

from step_runner import Connection, deploy

# In an SQL function an unqualified name that is both a parameter and a column is the column, without a word (PostgreSQL's manual,
# "Arguments for SQL Functions"): a condition such as "c.source = source" is then always true. So it is in PL/pgSQL that asks for it.
PARAMETERS = """
select p.proname, p.prosrc, parameter.name, string_agg(distinct c.relname, ', ' order by c.relname)
from pg_proc as p
inner join pg_language as l on l.oid = p.prolang and (l.lanname = 'sql' or p.prosrc like '%variable_conflict use_column%')
cross join lateral unnest(p.proargnames, p.proargmodes)
    as parameter (name, mode)
inner join pg_class as c on c.relkind in ('r', 'v') and p.prosrc ~ format('(from|join) %s\\.%s\\M', c.relnamespace::regnamespace, c.relname)
inner join pg_attribute as a on a.attrelid = c.oid and a.attname = parameter.name and a.attnum > 0
where p.pronamespace = 'rpc_migrations'::regnamespace and coalesce(parameter.mode, 'i') = 'i'
group by 1, 2, 3
"""


def test_no_parameter_is_taken_for_a_column(admin: Connection) -> None:
    deploy(admin)
    found = admin.execute(PARAMETERS).fetchall()
    assert {"busy", "swapped_before"} <= {name for name, *_ in found}  # the query finds those that could be
    wrong = [
        f"{name}: {parameter} is a column of {tables} too; write {name}.{parameter}"
        for name, body, parameter, tables in found
        if re.search(rf"(?<![.\w\"'])(?<!as ){parameter}\b(?! (?:as )?=)", re.sub("--.*", "", body))
    ]
    assert wrong == []
