"""Deploys execute_sql by the first way in that is open."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .access import describe_access, read_access
from .deployment import (
    BOOTSTRAP_FILE,
    CHANGED,
    EVERY_ARGUMENT,
    current_version,
    deployed_version,
    deployment_sql,
    is_as_deployed,
    version_number,
)
from .errors import (
    Absent,
    AccessRefused,
    Closed,
    MigrationError,
    NotDeployed,
    NotOurs,
    NoWayIn,
    SqlError,
    TransientError,
    Unreachable,
)
from .patience import Attempts
from .rest_errors import is_transient, json_object
from .settings import Settings
from .sql import dollar_quote

if TYPE_CHECKING:
    from .client import RpcClient
    from .console import Console

RELOAD_PATIENCE = 30.0  # seconds for the REST layer to learn of a new function
_PATIENCE = 60.0  # seconds to go on trying one way in
_OF_A_SUPERUSER = "RM008"  # see 00_superuser.sql: the other ways give it to postgres
_NOTICED_BY_HAND = 5.0  # seconds for it to learn of one that was made by hand
OPENED_BY_HAND = "select rpc_migrations.open_access('15 minutes', false);"  # if execute_sql has closed


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


def deploy(client: RpcClient, settings: Settings, console: Console, via: str | None, opening: str) -> None:
    """Deploy by the first way that is open, or by the one that `via` names; wait until the REST layer knows the function. `opening`:
    the statement that opens it (see opening_sql).

    Raises AccessRefused, SqlError, NotOurs; if no way is open, NoWayIn (some SQL run by hand opens one) or NotDeployed.
    """
    why_not_rpc, by_hand, others = None, None, None
    try:
        before = deployed_version(client)
        if before == current_version() and _is_whole(client, console):
            _open(client, console, opening)
            _warn_of_open_functions(client, console)
            return
        is_ours = version_number(before) > 0
    except Closed as reason:
        is_ours, why_not_rpc, by_hand = True, reason.message, OPENED_BY_HAND
    except NotOurs as reason:
        if reason.code is None:  # it answers
            raise
        is_ours, why_not_rpc, others = False, "it is somebody else's", reason  # the other ways can name it
    except NotDeployed as reason:
        is_ours, why_not_rpc = False, "it is not as it was deployed"
        if isinstance(reason, Absent):
            why_not_rpc = "it is not there yet"
            by_hand = BOOTSTRAP_FILE.read_text(encoding="utf-8")
    if way := _send_by_first_open_way(client, settings, console, via, opening, why_not_rpc):
        console.say(f"{'Brought up to date' if is_ours else 'Deployed'} through {way.title}.")
        _wait_for_rest_layer(client, console)
        console.say(describe_access(read_access(client)))
        _warn_of_open_functions(client, console)
        return
    if others:
        raise others
    message = (
        f"execute_sql could not be {'brought up to date' if is_ours else 'deployed'}: no way in over HTTPS is open."
    )
    # By hand only execute_sql itself is opened, and only to the service key.
    if by_hand and via in (None, RPC.name) and settings.key and settings.key.role != "anon":
        raise NoWayIn(message, by_hand=by_hand)
    raise NotDeployed(
        message,
        hint="Paste the written file into the SQL Editor; or set SUPABASE_ACCESS_TOKEN and run the same command again.",
    )


def _send_by_first_open_way(
    client: RpcClient, settings: Settings, console: Console, via: str | None, opening: str, why_not_rpc: str | None
) -> Way | None:
    """The way by which the deployment's SQL was run; None if none is open, which is said of each. Raises SqlError."""
    for way in [way for way in WAYS if via in (None, way.name)]:
        try:
            if way is RPC and why_not_rpc:
                raise WayClosed(f"not open ({why_not_rpc})")
            _send(way, client, settings, f"{deployment_sql()}\n{opening}")
        except WayClosed as reason:
            console.say(f"{way.title}: {reason.message}")
        else:
            return way
    return None


def is_open_by_hand(client: RpcClient) -> bool:
    """Whether execute_sql is there and open now; the REST layer may need some seconds to notice. Raises as `deploy` does."""
    deadline = time.monotonic() + _NOTICED_BY_HAND
    while True:
        try:
            deployed_version(client)
        except (Absent, Closed):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.3)
        else:
            return True


def _is_whole(client: RpcClient, console: Console) -> bool:
    """Whether nothing of a deployment that is up to date was dropped or altered since; if so, it is said."""
    if is_as_deployed(client):
        return True
    console.say(CHANGED)
    return False


def _open(client: RpcClient, console: Console, opening: str) -> None:
    """Run the opening statement on a deployment that is up to date, and say what that has changed."""
    before = read_access(client)
    client.query(opening)
    after = read_access(client)
    if all(before[key] == after[key] for key in ("open_until", "keep_texts")):
        console.nothing_to_do("execute_sql is deployed and up to date.")
    else:
        console.say("execute_sql was deployed before and is up to date.")
    console.say(describe_access(after))


def _send(way: Way, client: RpcClient, settings: Settings, sql: str) -> None:
    """Run the deployment's SQL by one way. Raises WayClosed or SqlError."""
    if way is RPC:
        # In a "do" block: older versions analyse the whole text before they run any of it, and so miss what it makes.
        try:
            client.query(f"do {dollar_quote(f'begin execute {dollar_quote(sql)}; end')}")
        except SqlError as error:
            if error.code == _OF_A_SUPERUSER:
                raise WayClosed(f"not open ({error.message})") from error
            raise
    elif way is META:
        assert settings.url and settings.key
        _post(client, f"{settings.url}/pg/query", sql, settings.key.headers)
    else:
        if settings.access_token is None or settings.project is None:
            raise WayClosed(
                "not open (it needs SUPABASE_ACCESS_TOKEN, and a project's name in SUPABASE_URL or in the key)"
            )
        url = f"{settings.management_url}/v1/projects/{settings.project}/database/query"
        _post(client, url, sql, settings.access_token.bearer)


def _post(client: RpcClient, url: str, sql: str, headers: dict[str, str]) -> None:
    """POST the SQL, as one transaction, to a service that takes {"query"}; again where the answer was lost, since deploying twice does
    no harm. Raises WayClosed or SqlError.
    """
    import httpx

    from .client import MAX_ATTEMPTS_BEFORE_FIRST_ANSWER

    def send() -> httpx.Response:
        try:
            answer = client.http.post(url, json={"query": f"begin;\n{sql}\ncommit;"}, headers=headers)
        except httpx.HTTPError as error:
            raise TransientError(f"not reachable ({type(error).__name__})") from error
        if is_transient(str(answer.status_code)):
            raise TransientError(f"not open here ({_status(answer)})")
        return answer

    try:
        answer = client.insist(send, Attempts(_PATIENCE), MAX_ATTEMPTS_BEFORE_FIRST_ANSWER)
    except Unreachable as error:
        raise WayClosed(error.message) from error
    if answer.status_code in (200, 201):
        return
    body = json_object(answer) or {}
    if answer.status_code == 400 and body.get("message"):
        raise SqlError(
            str(body["message"]).strip(),
            code=_word(body, "code"),
            details=_word(body, "detail"),
            hint=_word(body, "hint") or "Nothing was changed. Fix the cause, then run the same command again.",
        )
    reason = _status(answer)
    raise WayClosed(f"refused ({reason})" if answer.status_code in (401, 403) else f"not open here ({reason})")


def _status(answer: Any) -> str:
    """The HTTP status, and the message with it."""
    message = _word(json_object(answer) or {}, "message")
    return f"HTTP {answer.status_code}" + (f", {message}" if message is not None else "")


def _word(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    return value if isinstance(value, str) else None


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


def open_functions(client: RpcClient) -> list[str]:
    """Signatures of functions in public that run SQL texts and that anon or authenticated may execute."""
    sql = "select distinct f.signature from rpc_migrations.open_functions() as f order by 1"
    return [row["signature"] for row in client.rows(sql, {"signature": str})]


def _warn_of_open_functions(client: RpcClient, console: Console) -> None:
    for signature in open_functions(client):
        console.warn(
            f"Anyone with the anonymous key, or any user, may execute the function {signature}. If it runs the SQL it is given, close it: "
            f"revoke execute on function {signature} from public, anon, authenticated;"
        )
