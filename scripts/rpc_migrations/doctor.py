"""Checks everything that a migration needs, and changes nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

import httpx

from .access import describe_access, describe_caller, describe_text, read_access, read_calls
from .client import RpcClient
from .deployment import CHANGED, is_as_deployed
from .errors import Absent, MigrationError, NotDeployed, StepFileError
from .file_checks import check
from .journal import Status, read_status
from .journal_words import count, describe_holders, moment
from .migration import Migration
from .network import CERTIFICATE_HINT, is_untrusted, through_proxy
from .places import DEPLOY_COMMAND
from .rebuilt_table import RebuiltTable, find_table, read_table, rows_in_words
from .report import Check
from .rest_errors import ErrorAnswer, json_object
from .settings import Settings
from .shapes import HOLDER
from .sql import quote_literal
from .ways_in import open_functions

_IN_PUBLIC = re.compile(r'public\.("?)(?P<name>[^".]+)\1')

_DATABASE_QUERY = """
select
    current_setting('server_version') as version,
    current_user as owner,
    current_setting('statement_timeout') as statement_timeout,
    current_setting('default_transaction_read_only')::boolean as takes_no_writes,
    pg_size_pretty(pg_database_size(current_database())) as size
"""

LONG_TRANSACTION = 60  # seconds
_HOLDERS_QUERY = "select rpc_migrations.lock_holders(to_regclass({table})) as holders"

_RIGHTS_QUERY = """
select format('%s has rights on %s: %s', r.grantee, r.object, r.statement) as problem
from (
    select * from rpc_migrations.rights_of_others()
    union all
    select * from rpc_migrations.rights_on_tables_aside()
) as r
where r.object not like 'routine public.%'
union all
select format('%s may execute execute_sql%s', o.role, case when o.by_membership then ', as a member of service_role' end)
from rpc_migrations.other_callers() as o
order by 1
"""


def examine(client: RpcClient, settings: Settings, migrations: Sequence[Migration]) -> list[Check]:
    """Return the checks, up to the first failure that keeps the others from being made."""
    assert settings.key is not None
    checks = [
        Check("settings", True, f"{settings.url}, {settings.key.describe()}"),
        _file(migrations),
        _rest_layer(client, settings),
    ]
    if not checks[-1].passed:
        return checks
    try:
        is_whole = is_as_deployed(client)
        detail = "deployed, up to date, open to this key" if is_whole else f"{CHANGED} Run: {DEPLOY_COMMAND}"
        checks.append(Check("execute_sql", is_whole, detail))
    except Absent as reason:
        is_whole, detail = False, f"not yet: {reason.message} Next: {DEPLOY_COMMAND}. Then this looks at the rest."
        checks.append(Check("execute_sql", True, detail))
    except NotDeployed as reason:
        is_whole = False
        checks.append(Check("execute_sql", False, reason.in_a_line))
    except MigrationError as reason:
        return [*checks, Check("execute_sql", False, reason.in_a_line)]
    if not is_whole:
        return [*checks, *(found for one in migrations for found in _table_through_rest(client, settings, one))]
    return [
        *checks,
        _database(client),
        _open_functions(client),
        _rights(client),
        _access(client),
        _calls(client),
        *(found for migration in migrations for found in _migration(client, settings, migration)),
    ]


def _file(migrations: Sequence[Migration]) -> Check:
    """Whether everything in the file can run in a step."""
    name = "migration file"
    try:
        check(migrations)
    except StepFileError as error:
        return Check(name, False, f"{error.details} {error.hint}")
    steps = sum(len(migration.steps) for migration in migrations)
    return Check(name, True, f"{migrations[0].file}, {count(steps, 'step')}")


def _rest_layer(client: RpcClient, settings: Settings) -> Check:
    """Whether PostgREST answers, and its version by its OpenAPI description."""
    assert settings.url and settings.key
    name = "network and REST layer"

    def get() -> httpx.Response:
        assert settings.url and settings.key
        return client.http.get(f"{settings.url}/rest/v1/", headers=settings.key.headers)

    try:
        try:
            answer = get()
        except (httpx.RemoteProtocolError, httpx.ReadError):  # one connection that breaks says nothing
            answer = get()
    except httpx.HTTPError as error:
        advice = CERTIFICATE_HINT if is_untrusted(error) else "Check SUPABASE_URL and the network."
        return Check(
            name,
            False,
            f"{settings.url} is not reachable{through_proxy(settings)}: {str(error).rstrip('.') or type(error).__name__}. {advice}",
        )
    body = json_object(answer)
    if body is None:
        said = f" ({message})" if (message := ErrorAnswer.read(answer).message) else ""
        return Check(
            name,
            False,
            f"{settings.url} answers HTTP {answer.status_code}{said}, but not as Supabase does. Check SUPABASE_URL and the project's status.",
        )
    if answer.status_code == 200:
        info = body.get("info")
        version = info.get("version") if isinstance(info, dict) else None
        return Check(name, True, f"PostgREST {version or '(version unknown)'}")
    # The description may be closed while functions are open: the next check shows whether the key works.
    return Check(name, True, f"it answers (HTTP {answer.status_code}: {body.get('message', 'no message')})")


def _database(client: RpcClient) -> Check:
    shape = {"version": str, "owner": str, "statement_timeout": str, "takes_no_writes": bool, "size": str}
    row = client.row(_DATABASE_QUERY, shape)
    said = f"PostgreSQL {row['version']}, {row['size']}; steps run as {row['owner']}, each for at most {row['statement_timeout']}"
    if row["takes_no_writes"]:
        said += ". It is set to take no writes (default_transaction_read_only), and no migration begins: see the project's dashboard"
    return Check("database", not row["takes_no_writes"], said)


def _open_functions(client: RpcClient) -> Check:
    """Whether something else in public opens the database to everyone."""
    names = ", ".join(open_functions(client))
    closing = f"anon or authenticated may execute {names}: revoke execute on each from public, anon, authenticated"
    none = "no other function of that kind is open to anon or authenticated"
    return Check("no other function open to everyone", not names, closing if names else none)


def _rights(client: RpcClient) -> Check:
    """Whether a role other than the owner and service_role has rights on anything of ours, or on a backup."""
    rows = client.rows(_RIGHTS_QUERY, {"problem": str})
    problems = "; ".join(row["problem"] for row in rows)
    none = "no other role may execute execute_sql, or has rights on the journal or on a table that was moved aside"
    detail = f"{problems}. Take it away, or run: {DEPLOY_COMMAND}" if problems else none
    return Check("only for the service", not problems, detail)


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


def _migration(client: RpcClient, settings: Settings, migration: Migration) -> list[Check]:
    """Where it stands, and the table that it rebuilds."""
    status = read_status(client, migration)
    return [_journal(status, migration), *_table(client, settings, migration, status)]


def _journal(status: Status, migration: Migration) -> Check:
    """Where the migration stands."""
    done = sum(status.is_done(step) for step in migration.steps)
    if status.is_rolling_back:
        return Check("journal", True, f"a rollback of {migration.name} is under way: finish it first")
    if not done:
        return Check("journal", True, f"{migration.name} has not begun")
    closed = f"; its way back was closed on {status.finished_at}" if status.finished_at else ""
    return Check("journal", True, f"{migration.name}: {done} of {len(migration.steps)} steps are done{closed}")


def _table(client: RpcClient, settings: Settings, migration: Migration, status: Status) -> list[Check]:
    """The table that the migration rebuilds, and whether it can be rebuilt."""
    table = read_table(client, migration)
    if table is None:
        return []
    if not table.is_there:
        if table.must_be_there:
            return [
                Check(table.name, False, "is not there, so there is nothing to rebuild. Is this the right project?")
            ]
        return [Check(table.name, True, "is not there: the migration will create it, empty")]
    if table.has_backup:
        is_ours = status.copy is not None and status.copy["state"] in ("swapped", "rolling back")
        is_in_the_way = not is_ours and not status.has_done(migration)
        what = "the original table, kept for a rollback" if is_ours else "another migration's, or made by hand"
        if is_in_the_way:
            what += (
                ". This migration refuses to begin while it is there: finish the other migration, or rename or drop the table. "
                "If it was this one, whose journal was removed, the table is migrated, and the backup may be dropped when it is no longer wanted"
            )
        return [
            Check(table.name, True, f"{table.size}; {table.columns}"),
            Check("backup", not is_in_the_way, f"{table.backup} is there: {what}"),
        ]
    found = Check(table.name, True, f"{table.rows_in_words}, {table.size}; {table.columns}")
    if status.finished_at is not None or status.has_done(migration):
        return [found]
    return [
        found,
        Check("can be rebuilt", table.obstacles is None, table.obstacles or "nothing is in the way"),
        _held(client, table),
        Check("carried over", True, table.carried_by_name),
        Check("how long, roughly", True, f"{table.seconds_in_words}, while the application goes on"),
        Check("fits into requests", table.too_large is None, table.too_large or "yes"),
        _room(client, settings, table),
    ]


def _held(client: RpcClient, table: RebuiltTable) -> Check:
    """Whether somebody has been using the table for so long that the swap would wait in vain: a transaction that was left open, or prepared."""
    holders = client.row(_HOLDERS_QUERY.format(table=quote_literal(table.name)), {"holders": [HOLDER]})["holders"]
    long = [one for one in holders if one["pid"] is None or (one["transaction_seconds"] or 0) >= LONG_TRANSACTION]
    none = "no transaction on it is prepared or has been open for long"
    detail = f"{describe_holders(long)}. The swap waits for its end: see to it first" if long else none
    return Check("nobody keeps it locked", not long, detail)


def _room(client: RpcClient, settings: Settings, table: RebuiltTable) -> Check:
    """Whether the disk has room for another copy of the table, as far as that can be known."""
    needed = (
        f"about {_megabytes(table.room)}: the new table with its indexes, and as much again of WAL for a while; "
        "plus whatever is written in the meantime"
    )
    free = _free_bytes(client, settings)
    if free is None:
        return Check(
            "room on disk", True,
            f"{needed}. Free space cannot be seen from here: see Database, Settings in the dashboard. A Free project "
            "takes no writes beyond 500 MB of database",
        )  # fmt: skip
    return Check("room on disk", table.room < free, f"{needed}. Free: {_megabytes(free)}")


def _free_bytes(client: RpcClient, settings: Settings) -> int | None:
    """The free bytes on the project's disk, by the Management API; None if that cannot be asked or does not say."""
    if settings.access_token is None or settings.project is None:
        return None
    try:
        answer = client.http.get(
            f"{settings.management_url}/v1/projects/{settings.project}/config/disk/util",
            headers=settings.access_token.bearer,
        )
        return int(answer.json()["metrics"]["fs_avail_bytes"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _megabytes(size: int) -> str:
    return f"{max(size / 1e6, 1):,.0f} MB"


def _table_through_rest(client: RpcClient, settings: Settings, migration: Migration) -> list[Check]:
    """What the REST layer shows of the table with this key, before execute_sql is there."""
    assert settings.url and settings.key
    found = find_table(migration)
    if found is None or not (match := _IN_PUBLIC.fullmatch(found.name)):
        return []
    name = found.name
    try:
        answer = client.http.get(
            f"{settings.url}/rest/v1/{quote(match['name'], safe='')}",
            params={"select": "*", "limit": "1"},
            headers={**settings.key.headers, "Prefer": "count=estimated"},
        )
        body = answer.json()
    except (httpx.HTTPError, ValueError, RecursionError) as error:
        return [Check(name, False, f"no answer that can be read: {type(error).__name__}. Run this again.")]
    if isinstance(body, dict) and body.get("code") in ("PGRST205", "42P01"):  # the latter up to PostgREST 12
        detail = "is not there, or not exposed by the API. Where there is no old table the migration creates it, empty"
        return [Check(name, True, f"{detail}. Is this the right project?")]
    if answer.status_code not in (200, 206) or not isinstance(body, list):
        message = body.get("message") if isinstance(body, dict) else None
        return [Check(name, False, f"answers HTTP {answer.status_code}: {message or 'no message'}")]
    total = answer.headers.get("Content-Range", "").rpartition("/")[2]
    rows = rows_in_words(int(total) if total.isdigit() else None, counted=False)
    columns = (
        ", ".join(body[0]) if body and isinstance(body[0], dict) else "its columns cannot be seen while it is empty"
    )
    return [Check(name, True, f"answers, {rows} that this key may read; {columns}")]
