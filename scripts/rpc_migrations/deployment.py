"""The SQL that makes execute_sql and the private schema, its version, and the version that is deployed."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

from .errors import Absent, Closed, MigrationError, NotDeployed, NotOurs, SqlError, not_ours
from .places import DEPLOY_COMMAND, PROJECT_ROOT
from .sql import quote_literal

if TYPE_CHECKING:
    from .client import RpcClient

BOOTSTRAP_FILE = PROJECT_ROOT / "db" / "bootstrap.sql"
SQL_FOLDER = PROJECT_ROOT / "db" / "rpc_migrations"
SIGNATURE = "public.execute_sql(text, text, text, text, boolean, uuid, integer, jsonb, text, jsonb)"
# Ours runs the question for its version; somebody else's may allow no such query, or put it into another one.
_NEVER_OURS = re.compile(r"P0|22|42(?!501)")
CHANGED = "Something that execute_sql needs was dropped or altered since it was deployed."
_SOMETHING_IS_MISSING = ("3F000", "42883", "42P01")  # no such schema, function, table

_THIS_NUMBER = re.compile(r"this_version constant integer := (\d+);")  # as the SQL says it
_NUMBER = re.compile(r"rpc_migrations (\d{1,6}) ")  # in the comment of execute_sql

# An older version may take other arguments; its comment marks it as ours. Others answer a row as well: nothing at all (null) is what ours
# answers as a strict function.
_VERSION_QUERY = """
select obj_description(p.oid, 'pg_proc') as version, case when p.oid is not null then {value} end as value
from (values (1)) as always (one)
left join pg_catalog.pg_proc as p on
    p.pronamespace = 'public'::regnamespace and p.proname = 'execute_sql'
    and obj_description(p.oid, 'pg_proc') like 'rpc_migrations %'
"""
EVERY_ARGUMENT = {
    "migration": None, "step": None, "checksum": None, "batch": False, "run": None, "shrink": 0, "following": None, "separator": None,
    "record": None,
}  # fmt: skip


def deployment_sql() -> str:
    """The text that makes or updates execute_sql and the private schema, with its version as the function's comment."""
    text = "\n\n".join(path.read_text(encoding="utf-8").strip() for path in sorted(SQL_FOLDER.glob("*.sql")))
    number = _THIS_NUMBER.findall(text)
    assert len(number) == 1
    version = f"rpc_migrations {number[0]} {hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return f"{text}\n\ncomment on function {SIGNATURE}\nis {quote_literal(version)};\n"


def opening_sql(open_for: float | None, *, keep_texts: bool) -> str:
    """The statement that opens execute_sql for so many seconds (None: until it is removed); `keep_texts`: whether the record
    of calls keeps whole texts.
    """
    duration = "null" if open_for is None else f"'{open_for:.0f} seconds'"
    # Not a query: its row would be what the SQL Editor shows of the deployment.
    return (
        f"do $open$ begin perform rpc_migrations.open_access({duration}, {quote_literal(keep_texts)}); end; $open$;\n"
    )


def current_version() -> str:
    """The version that `deployment_sql` deploys."""
    return deployment_sql().rsplit("'", 2)[1]


def version_number(version: str) -> int:
    """The number that versions are ordered by; the first ones bear none, and count as 1."""
    match = _NUMBER.match(version)
    return int(match[1]) if match else 1


def deployed_version(client: RpcClient, arguments: dict[str, Any] | None = None) -> str:
    """The version that is deployed. Raises NotDeployed if execute_sql is absent, incomplete or not ours, and
    MigrationError if it is newer than these scripts.

    `arguments` are sent along, to see whether the REST layer knows them.
    """
    return str(_ask(client, "null", arguments)["version"])


def check_deployed(client: RpcClient, expression: str = "null") -> Any:
    """Raise NotDeployed unless exactly this version of execute_sql is deployed; return the value of an SQL expression, which the
    same request asks for.

    Raises MigrationError if the deployed version is newer than these scripts.
    """
    try:
        row = _ask(client, expression)
    except NotDeployed as reason:
        # Somebody else's function, or an older one of ours, may not know what the expression calls.
        if reason.code is None or (row := _ask(client, "null"))["version"] == current_version():
            raise
    if row["version"] != current_version():
        if version_number(row["version"]) == 0:
            raise Absent("Only the bootstrap of execute_sql is deployed.", hint=f"Run: {DEPLOY_COMMAND}")
        is_older = version_number(row["version"]) < version_number(current_version())
        what = "An older" if is_older else "Another"
        raise NotDeployed(f"{what} version of execute_sql is deployed.", hint=f"Run: {DEPLOY_COMMAND}")
    return row.get("value")


def is_as_deployed(client: RpcClient) -> bool:
    """Whether this version is deployed, and nobody has dropped or altered anything of it since. Raises as check_deployed."""
    try:
        return check_deployed(client, "rpc_migrations.is_as_deployed()") is True
    except (Absent, Closed, NotOurs):
        raise
    except NotDeployed as reason:
        if reason.code is None:
            raise
        return False  # that function itself, for one


def _ask(client: RpcClient, expression: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
    """The deployed "version", and the "value" of an expression. Raises as deployed_version does."""
    try:
        rows = client.call({"query": _VERSION_QUERY.format(value=expression), **(arguments or {})})
    except SqlError as error:
        if error.code in _SOMETHING_IS_MISSING and "rpc_migrations" in error.message:
            raise NotDeployed(
                f"execute_sql is there, but not all that it needs: {error.message}.",
                code=error.code,
                hint=f"Run: {DEPLOY_COMMAND}",
            ) from error
        if error.code and _NEVER_OURS.match(error.code) and error.code not in _SOMETHING_IS_MISSING:
            raise not_ours(details=f"It answers: {error.message} [{error.code}]") from error
        raise
    row = rows[0] if isinstance(rows, list) and rows else None
    if not isinstance(row, dict) or not isinstance(row.get("version"), str):
        raise not_ours()
    if version_number(row["version"]) > version_number(current_version()):
        raise MigrationError(
            "A newer version of execute_sql is deployed than these scripts know.",
            hint="Update the scripts, then run the same command again.",
        )
    return row
