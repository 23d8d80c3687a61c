"""Looks at everything that a migration needs before anything is changed, and changes nothing itself."""

from __future__ import annotations

import re

import httpx

from .access import describe_access, describe_caller, describe_text, read_access, read_calls
from .client import RpcClient
from .deployment import check_deployed
from .errors import DEPLOY_COMMAND, MigrationError
from .journal import moment, read_status
from .report import Check
from .settings import Settings
from .shapes import Maybe
from .sql import quote_literal
from .step_file import Migration
from .ways_in import open_functions

# Measured on two cores (tests/benchmarks/README.md): rows that a migration copies, indexes and compares in a second, and
# the rows up to which an index build stays within one request.
ROWS_PER_SECOND = 200_000
ROWS_PER_REQUEST = 20_000_000

_BEGIN_COPY = re.compile(r"rpc_migrations\.begin_copy\(\s*'([^']+)'(?:\s*,\s*(?:backup\s*=>\s*)?'([^']+)')?")

_DATABASE_QUERY = """
select
    current_setting('server_version') as version,
    current_user as owner,
    current_setting('statement_timeout') as statement_timeout,
    pg_size_pretty(pg_database_size(current_database())) as size
"""

_RIGHTS_QUERY = """
select format('%s has rights on %s: %s', r.grantee, r.object, r.statement) as problem
from rpc_migrations.rights_of_others() as r
where r.object not like 'routine public.%'
union all
select format('%s may execute execute_sql%s', o.role, case when o.by_membership then ', as a member of service_role' end)
from rpc_migrations.other_callers() as o
order by 1
"""

_ROWS_QUERY = "select c.reltuples::bigint as rows from pg_catalog.pg_class as c where c.oid = to_regclass({table})"

_TABLE_QUERY = """
select
    to_regclass({table}) is not null as is_there,
    to_regclass({backup}) is not null as has_backup,
    (select c.reltuples::bigint from pg_catalog.pg_class as c where c.oid = to_regclass({table})) as rows,
    pg_size_pretty(pg_total_relation_size(to_regclass({table}))) as size,
    (
        select string_agg(format('%s %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' order by a.attnum)
        from pg_catalog.pg_attribute as a
        where a.attrelid = to_regclass({table}) and a.attnum > 0 and not a.attisdropped
    ) as columns,
    rpc_migrations.obstacles_in_words(to_regclass({table})) as obstacles,
    (
        select string_agg(concat_ws(' ', d.kind, nullif(d.name, '')), ', ' order by d.kind, d.name)
        from rpc_migrations.describe_table(to_regclass({table}), {table}) as d
        where d.kind not in ('column', 'grant', 'owner')
    ) as carried
"""


_TABLE = {
    "is_there": bool, "has_backup": bool, "rows": Maybe(int), "size": Maybe(str), "columns": Maybe(str),
    "obstacles": Maybe(str), "carried": Maybe(str),
}  # fmt: skip


def examine(client: RpcClient, settings: Settings, migration: Migration) -> list[Check]:
    """Return what was found, up to the first thing without which no more can be seen."""
    assert settings.key is not None
    checks = [Check("settings", True, f"{settings.url}, {settings.key.describe()}")]
    for look in (_rest_layer, _execute_sql):
        checks.append(look(client, settings))
        if not checks[-1].passed:
            return checks
    return [
        *checks,
        _database(client),
        _open_functions(client),
        _rights(client),
        _access(client),
        _calls(client),
        _journal(client, migration),
        *_table(client, migration),
    ]


def _rest_layer(client: RpcClient, settings: Settings) -> Check:
    """Whether PostgREST answers, and which version it is, as its OpenAPI description says."""
    assert settings.url and settings.key
    name = "network and REST layer"
    key = settings.key.value
    try:
        answer = client.http.get(f"{settings.url}/rest/v1/", headers={"apikey": key, "Authorization": f"Bearer {key}"})
    except httpx.HTTPError as error:
        return Check(
            name,
            False,
            f"{settings.url} is not reachable: {error or type(error).__name__}. Check SUPABASE_URL and the network.",
        )
    try:
        body = answer.json()
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        return Check(
            name,
            False,
            f"{settings.url} answers HTTP {answer.status_code}, but not as Supabase does. Check SUPABASE_URL.",
        )
    if answer.status_code == 200:
        info = body.get("info")
        version = info.get("version") if isinstance(info, dict) else None
        return Check(name, True, f"PostgREST {version or '(version unknown)'}")
    # The description may be closed while the functions are open: the next check tells whether the key works.
    return Check(name, True, f"it answers (HTTP {answer.status_code}: {body.get('message', 'no message')})")


def _execute_sql(client: RpcClient, settings: Settings) -> Check:
    """Whether execute_sql is there, ours, up to date, and may be executed with this key."""
    try:
        check_deployed(client)
    except MigrationError as error:
        return Check("execute_sql", False, f"{error.message} {error.hint or ''}".strip())
    return Check("execute_sql", True, "deployed, up to date, open to this key")


def _database(client: RpcClient) -> Check:
    row = client.row(_DATABASE_QUERY, {"version": str, "owner": str, "statement_timeout": str, "size": str})
    return Check(
        "database",
        True,
        f"PostgreSQL {row['version']}, {row['size']}; steps run as {row['owner']}, each for at most {row['statement_timeout']}",
    )


def _open_functions(client: RpcClient) -> Check:
    """Whether something else in public opens the database to everyone."""
    names = ", ".join(open_functions(client))
    if names:
        return Check(
            "no open door beside it",
            False,
            f"anon or authenticated may execute {names}: revoke execute on each from public, anon, authenticated",
        )
    return Check("no open door beside it", True, "no other function of that kind is open to anon or authenticated")


def _rights(client: RpcClient) -> Check:
    """Whether a role that is neither the owner nor service_role gets at anything of ours."""
    rows = client.rows(_RIGHTS_QUERY, {"problem": str})
    problems = "; ".join(row["problem"] for row in rows)
    if problems:
        return Check("only for the service", False, f"{problems}. Take it away, or run: {DEPLOY_COMMAND}")
    return Check("only for the service", True, "no other role may execute execute_sql or has rights on the journal")


def _access(client: RpcClient) -> Check:
    """Since when it is open, and until when."""
    access = read_access(client)
    texts = " The record keeps whole texts." if access["keep_texts"] else ""
    return Check("open", True, f"since {moment(access['opened_at'])}. {describe_access(access)}{texts}")


def _calls(client: RpcClient) -> Check:
    """What was run last."""
    found = read_calls(client, 3)
    calls = "; ".join(f"{moment(c['called_at'])}, {describe_caller(c)}: {describe_text(c)}" for c in found["calls"])
    return Check(
        "last calls", True, f"{found['total']:,} on record; the last that changed something: {calls or 'none'}"
    )


def _journal(client: RpcClient, migration: Migration) -> Check:
    """Where the migration stands."""
    done = sum(1 for row in read_status(client, migration).steps.values() if row["finished_at"])
    if not done:
        return Check("journal", True, f"{migration.name} has not begun")
    return Check("journal", True, f"{migration.name}: {done} of {len(migration.steps)} steps are done")


def size_warning(client: RpcClient, migration: Migration) -> str | None:
    """Why the table that a migration rebuilds may be too large for this way, and which way is for it; None if it fits."""
    found = _find_table(migration)
    if found is None:
        return None
    return _too_large(client.row(_ROWS_QUERY.format(table=quote_literal(found[0])), {"rows": Maybe(int)})["rows"] or 0)


def _too_large(rows: int) -> str | None:
    if rows <= ROWS_PER_REQUEST:
        return None
    return (
        f"The table has about {rows:,} rows: building one index over it may take longer than a request can (50 s). "
        f"Over a direct connection it can take as long as it likes: --write-sql --online writes the file for psql."
    )


def _table(client: RpcClient, migration: Migration) -> list[Check]:
    """What the table is like that the migration rebuilds, and whether it can be."""
    found = _find_table(migration)
    if found is None:
        return []
    table, backup = found
    row = client.row(_TABLE_QUERY.format(table=quote_literal(table), backup=quote_literal(backup)), _TABLE)
    if not row["is_there"]:
        return [Check(table, True, "is not there: the migration will create it, empty")]
    if row["has_backup"]:
        detail = (
            f"{backup} is there: the migration has run, or another backup is in its way (it would then refuse to begin)"
        )
        return [Check(table, True, f"{row['size']}; {row['columns']}"), Check("backup", True, detail)]
    rows = max(row["rows"] or 0, 0)
    warning = _too_large(rows)
    return [
        Check(table, True, f"about {rows:,} rows, {row['size']}; {row['columns']}"),
        Check("can be rebuilt", row["obstacles"] is None, row["obstacles"] or "nothing is in the way"),
        Check("carried over", True, row["carried"] or "nothing but columns and rights"),
        Check("how long, roughly", True, f"{max(rows / ROWS_PER_SECOND, 1):,.0f} s, while the application goes on"),
        Check("fits into requests", warning is None, warning or "yes"),
    ]


def _find_table(migration: Migration) -> tuple[str, str] | None:
    """The table that a migration rebuilds, and its backup's name, as its steps call begin_copy."""
    found = next((match for step in migration.steps if (match := _BEGIN_COPY.search(step.sql))), None)
    return (found[1], found[2] or "") if found else None
