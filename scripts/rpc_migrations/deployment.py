"""Deploys execute_sql: which ways in there are, in the order of their safety, and which of them is open."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import AccessRefused, MigrationError, NotDeployed, SqlError
from .settings import PROJECT_ROOT, Settings
from .sql import quote_literal

if TYPE_CHECKING:
    from .client import RpcClient
    from .console import Console

SQL_FOLDER = PROJECT_ROOT / "db" / "rpc_migrations"
SIGNATURE = "public.execute_sql(text, text, text, text, boolean, uuid, integer, jsonb)"
_DEPLOY = "python scripts/deploy_sql_function.py"
_SOMETHING_IS_MISSING = ("3F000", "42883", "42P01")  # no such schema, function, table
RELOAD_PATIENCE = 30.0  # seconds for the REST layer to learn of a new function

# An older version may take other arguments; its comment tells that it is ours.
_VERSION_QUERY = """
select obj_description(p.oid, 'pg_proc') as version, {value} as value
from pg_catalog.pg_proc as p
where
    p.pronamespace = 'public'::regnamespace and p.proname = 'execute_sql'
    and obj_description(p.oid, 'pg_proc') like 'rpc_migrations %'
"""
EVERY_ARGUMENT = {
    "migration": None,
    "step": None,
    "checksum": None,
    "batch": False,
    "run": None,
    "shrink": 0,
    "following": None,
}
OPEN_FUNCTIONS_QUERY = """
select format('public.%I(%s)', p.proname, oidvectortypes(p.proargtypes)) as signature
from pg_catalog.pg_proc as p
where
    p.pronamespace = 'public'::regnamespace and p.prokind = 'f'
    and p.proname ~* '^(exec|execute|run|raw)?_?(sql|query|exec|ddl)$'
    and 'text'::regtype = any (p.proargtypes::oid[])
    and (has_function_privilege('anon', p.oid, 'execute') or has_function_privilege('authenticated', p.oid, 'execute'))
order by 1
"""


def deployment_sql() -> str:
    """The text that makes or updates execute_sql and the private schema, with its version as the function's comment."""
    text = "\n\n".join(path.read_text(encoding="utf-8").strip() for path in sorted(SQL_FOLDER.glob("*.sql")))
    version = f"rpc_migrations {hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return f"{text}\n\ncomment on function {SIGNATURE}\nis {quote_literal(version)};\n"


def current_version() -> str:
    """The version that `deployment_sql` deploys."""
    return deployment_sql().rsplit("'", 2)[1]


def deployed_version(client: RpcClient, arguments: dict[str, Any] | None = None) -> str:
    """The version that is deployed. Raises NotDeployed where execute_sql is absent, incomplete or not ours.

    `arguments` are sent along, to see whether the REST layer knows them.
    """
    return str(_ask(client, "null", arguments)["version"])


def check_deployed(client: RpcClient, expression: str = "null") -> Any:
    """Raise NotDeployed unless this very version of execute_sql is there; return an expression's value, asked for in one go."""
    try:
        row = _ask(client, expression)
    except NotDeployed as reason:
        # Somebody else's knows nothing of what is in the expression, and an older one of ours perhaps neither.
        if reason.code is None or (row := _ask(client, "null"))["version"] == current_version():
            raise
    if row["version"] != current_version():
        raise NotDeployed("Another version of execute_sql is deployed.", hint=f"Run: {_DEPLOY}")
    return row["value"]


def _ask(client: RpcClient, expression: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
    """The deployed "version", and the "value" of an expression. Raises as deployed_version does."""
    try:
        rows = client.call({"query": _VERSION_QUERY.format(value=expression), **(arguments or {})})
    except SqlError as error:
        if error.code in _SOMETHING_IS_MISSING and "rpc_migrations" in error.message:
            raise NotDeployed(
                f"execute_sql is there, but not all that it needs: {error.message}.",
                code=error.code,
                hint=f"Run: {_DEPLOY}",
            ) from error
        raise
    row = rows[0] if isinstance(rows, list) and rows else None
    if not isinstance(row, dict) or not row.get("version"):
        raise NotDeployed(
            "There is a function execute_sql that this project did not make.",
            hint=f"See who uses it. If nobody does, run in the SQL Editor: drop function public.execute_sql; then: {_DEPLOY}",
        )
    return row


@dataclass(frozen=True)
class Way:
    """A way to run the deployment's SQL: its name for --via, and what it is called in the output."""

    name: str
    title: str


RPC = Way("rpc", "execute_sql itself")
META = Way("meta", "postgres-meta (/pg/query)")
MANAGEMENT = Way("management", "the Management API")
WAYS = (RPC, META, MANAGEMENT)


class WayClosed(MigrationError):
    """A way in that is not open here."""


def deploy(client: RpcClient, settings: Settings, console: Console, via: str | None) -> None:
    """Deploy by the first way that is open, or by the one that `via` names; wait until the REST layer knows it.

    Raises AccessRefused, NotDeployed (nobody lets us in: the SQL file is the way) or SqlError.
    """
    try:
        if deployed_version(client) == current_version():
            console.nothing_to_do("execute_sql is deployed and up to date.")
            warn_of_open_functions(client, console)
            return
        is_ours = True
    except NotDeployed as reason:
        if reason.code is None:  # it answers, and is somebody else's
            raise
        is_ours = False
    for way in [way for way in WAYS if via in (None, way.name)]:
        try:
            if way is RPC and not is_ours:
                raise WayClosed("not open (it is not there yet)")
            _send(way, client, settings)
        except WayClosed as reason:
            console.say(f"{way.title}: {reason.message}")
            continue
        console.say(f"{'Brought up to date' if is_ours else 'Deployed'} through {way.title}.")
        _wait_for_rest_layer(client, console)
        warn_of_open_functions(client, console)
        return
    raise NotDeployed(
        f"execute_sql could not be {'brought up to date' if is_ours else 'deployed'}: no way in over HTTPS is open.",
        hint="Paste the written file into the SQL Editor; or set SUPABASE_ACCESS_TOKEN and run the same command again.",
    )


def _send(way: Way, client: RpcClient, settings: Settings) -> None:
    """Run the deployment's SQL by one way. Raises WayClosed or SqlError."""
    if way is RPC:
        client.query(deployment_sql())
    elif way is META:
        assert settings.url and settings.key
        _post(client, f"{settings.url}/pg/query", settings.key.value, {"apikey": settings.key.value})
    else:
        if settings.access_token is None or settings.project is None:
            raise WayClosed(
                "not open (it needs SUPABASE_ACCESS_TOKEN, and a project's name in SUPABASE_URL or in the key)"
            )
        _post(
            client,
            f"{settings.management_url}/v1/projects/{settings.project}/database/query",
            settings.access_token.value,
            {},
        )


def _post(client: RpcClient, url: str, bearer: str, headers: dict[str, str]) -> None:
    """POST the SQL to a service that takes {"query"}; one statement after another in one transaction."""
    import httpx

    try:
        answer = client.http.post(
            url,
            json={"query": f"begin;\n{deployment_sql()}\ncommit;"},
            headers={"Authorization": f"Bearer {bearer}", **headers},
        )
    except httpx.HTTPError as error:
        raise WayClosed(f"not reachable ({type(error).__name__})") from error
    if answer.status_code in (200, 201):
        return
    body = _json(answer)
    if answer.status_code == 400 and body.get("message"):
        raise SqlError(
            str(body["message"]).strip(),
            code=body.get("code"),
            details=body.get("detail"),
            hint=body.get("hint") or "Nothing was changed. Mend what it names, then run the same command again.",
        )
    reason = f"HTTP {answer.status_code}" + (f", {body['message']}" if isinstance(body.get("message"), str) else "")
    raise WayClosed(f"refused ({reason})" if answer.status_code in (401, 403) else f"not open here ({reason})")


def _json(answer: Any) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _wait_for_rest_layer(client: RpcClient, console: Console) -> None:
    """Wait until PostgREST has reloaded its schema cache and answers with our version; that is the first call."""
    deadline = time.monotonic() + RELOAD_PATIENCE
    pause = 0.05
    while time.monotonic() < deadline:
        try:
            if deployed_version(client, EVERY_ARGUMENT) == current_version():
                console.say("The REST layer knows the function; it was called once and answers.")
                return
        except NotDeployed as reason:
            console.detail(reason.message)
        except AccessRefused as reason:
            raise AccessRefused(
                "execute_sql was made, but this key may not execute it.", hint=reason.hint, code=reason.code
            ) from reason
        time.sleep(pause)
        pause = min(pause * 1.5, 1.0)
    raise NotDeployed(
        f"execute_sql was made, but after {RELOAD_PATIENCE:g} s the REST layer does not know it yet.",
        hint="In the SQL Editor, run: notify pgrst, 'reload schema'; then run the same command again.",
    )


def warn_of_open_functions(client: RpcClient, console: Console) -> None:
    """Warn of functions in public that run SQL texts and that anon or authenticated may execute."""
    for row in client.rows(OPEN_FUNCTIONS_QUERY):
        signature = row["signature"]
        console.warn(
            f"Anyone with the anonymous key, or any user, may execute the function {signature}. If it runs the SQL it is given, close it: "
            f"revoke execute on function {signature} from public, anon, authenticated;"
        )
