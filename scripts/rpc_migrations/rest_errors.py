"""What an error answer of the REST layer or of the gateway means, and what to do about it.

Codes are those that PostgREST documents (https://docs.postgrest.org/en/stable/references/errors.html), SQLSTATEs those of
PostgreSQL's appendix A.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import httpx

from .errors import (
    Absent,
    AccessRefused,
    Closed,
    MigrationError,
    NotDeployed,
    NothingToDo,
    NotSupabase,
    SqlError,
    StatementTimedOut,
    TransientError,
    altered,
    not_ours,
)
from .places import DEPLOY_COMMAND

# PostgREST up to version 14 repeats a transaction that fails with one of these without end, so execute_sql never lets them out: a
# step answers the state "conflict", other SQL fails with RM006 and the SQLSTATE in its detail.
CONFLICTS = ("40001", "40P01")  # serialization_failure, deadlock_detected

# Transient faults: a gateway that gives up, a REST layer without a database, a database that is busy or restarting. Not a full disk (53100):
# each attempt would fill it once more, and the application could not write meanwhile.
_TRANSIENT = re.compile(r"408|429|50[0234]|52\d|530|544|PGRST00[0-3]|40001|40P01|55P03|57P0[1-3]|53(?!100)...|08...")

# What a statement alters was altered by a transaction that committed meanwhile (XX000; see rpc_migrations.was_altered_meanwhile).
_ALTERED_MEANWHILE = re.compile(r"(^|: )tuple concurrently (updated|deleted)$")

# The REST layer's clock may be behind the gateway's, which makes a token out of a secret key for each request.
_TOO_EARLY = ("JWT issued at future", "JWT not yet valid", "JWTIssuedAtFuture", "JWTNotYetValid")  # the latter up to 12
TOKEN_CODES = ("PGRST301", "PGRST303")  # the codes of that

# An SQLSTATE, or a code of PostgREST. A gateway may have a word of its own there, which says less than the HTTP status.
_CODE = re.compile(r"[0-9A-Z]{5}|PGRST\w+")

_NEW_KEY = "Copy the key again: Project Settings, API Keys, in the Supabase dashboard."

# What the gateway says of a key (without a code), and PostgREST of a token: the beginning of the message, and what to do.
_KEY_HINTS = {
    "No API key found in request": "Set SUPABASE_SERVICE_KEY.",
    "Invalid API key": _NEW_KEY,
    "Unregistered API key": f"The key was deleted, or belongs to another project. {_NEW_KEY}",
    "Legacy API keys are disabled": "Set SUPABASE_SERVICE_KEY to a secret key (sb_secret_...): Project Settings, API Keys.",
    "Forbidden use of secret API key in browser": "Something on the way makes the request look like a browser's. Run this without that proxy.",
    "JWT expired": _NEW_KEY,
    "Expected 3 parts in JWT": "The gateway hands the key on as it is, and only a JWT will do: set SUPABASE_SERVICE_KEY to the legacy service_role key.",
    "Anonymous access is disabled": "Something on the way takes the Authorization header away. Run this without that proxy.",
    "Server lacks JWT secret": "The REST layer has no secret to check keys with (PGRST_JWT_SECRET). See the project's status.",
}

# HTTP statuses of a project that takes no requests.
_CLOSED_PROJECTS = {
    "402": (
        "restricted",
        "See the organization's billing and usage in the dashboard, then run the same command again.",
    ),
    "540": ("paused", "Restore it in the dashboard, then run the same command again."),
}

MAKE_ROOM = "Make room: drop what is not needed, or enlarge the disk (Database, Settings in the dashboard). Then run the same command again"

_ROLE_HINT = "Everything here runs as the owner of execute_sql, and cannot change its role. Leave `set role` out."
_HINTS = {
    "42501": "The role that owns execute_sql may not do this. Run this step's SQL in the SQL Editor, or grant the right first.",
    "25006": "The database takes no writes at present (a replica, or out of disk space). See the project's dashboard.",
    "0A000": "Take begin, commit and rollback out of the step: it takes effect as a whole already.",
    "2D000": "A step is a transaction already. Leave COMMIT and ROLLBACK out of blocks and procedures; for work in batches that commit, write a "
    "step `-- step: NAME (batch)`.",
    "21000": "Give the UPDATE or DELETE a WHERE clause: the API refuses them without one.",
    "55P04": "A value that was added to an enum type can be used once it is committed. Put a line `-- step: NAME` between the two.",
    "RM007": f"Open it again: {DEPLOY_COMMAND} --for 2h",
    "53100": f"{MAKE_ROOM}: it goes on where this one stopped. Up to the swap, rolling back removes the copy of a table, and gives its room back.",
    "57014": "It ran into a time limit (50 s; with a PostgREST older than 12 the role's own). Over a direct connection there is none "
    "(README, Limits).",
}

# These two have many causes: the hint is only for messages with these words.
_HINT_IS_FOR = {"0A000": "transaction commands", "21000": "requires a WHERE clause"}


@dataclass(frozen=True)
class ErrorAnswer:
    """An error answer. PostgREST's JSON has all of these fields; a gateway's has a message but no code; others' have nothing."""

    code: str  # the HTTP status where the answer has none of PostgreSQL's or PostgREST's
    message: str
    details: str | None
    hint: str | None

    @classmethod
    def read(cls, response: httpx.Response) -> ErrorAnswer:
        """What a response says, whatever it is."""
        said = {name: text for name, text in (json_object(response) or {}).items() if isinstance(text, str)}
        if response.has_redirect_location:
            said = {"message": f"it redirects to {response.headers['Location']}"}
        code = said.get("code", "")
        return cls(
            code=code if _CODE.fullmatch(code) else str(response.status_code),
            message=said.get("message", "").strip(),
            details=said.get("details"),
            hint=said.get("hint"),
        )


def json_object(response: httpx.Response) -> dict[str, Any] | None:
    """The JSON object that is the body of a response; None if it is none."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def is_transient(code: str) -> bool:
    """Whether an HTTP status, an SQLSTATE or a code of PostgREST stands for something that passes."""
    return _TRANSIENT.fullmatch(code) is not None


def explain(error: ErrorAnswer, retry_after: float | None) -> MigrationError:
    """Return the error that an answer stands for. `retry_after`: seconds from its header, if any."""
    code, message, details = error.code, error.message, error.details
    if code == "RM006" and details in CONFLICTS:
        code, details = details, None
    passes = is_transient(code) or (code == "XX000" and _ALTERED_MEANWHILE.search(message))
    if passes or (code in TOKEN_CODES and message in _TOO_EARLY):
        return TransientError(
            f"{_describe(code)}{f', {message}' if message else ''}", retry_after=retry_after, details=details, code=code
        )
    if code in ("401", "403") or code in ("PGRST300", "PGRST301", "PGRST302", "PGRST303"):
        return _refused(error)
    if code in ("PGRST202", "PGRST203") or _is_gone(error):
        return _not_deployed(error)
    if stopped := _stopped_before_it(code, message) or _may_not_call(code, message, details):
        return stopped
    kind = {"57014": StatementTimedOut, "RM000": NothingToDo, "RM007": Closed}.get(code, SqlError)
    hint = _HINTS.get(code) if _HINT_IS_FOR.get(code, "") in message else None
    if 'parameter "role" within security-definer function' in message:
        hint = _ROLE_HINT
    if code not in ("53100", "55P04", "RM007"):  # the database's own hints for these say less than ours
        hint = error.hint or hint
    if code == "53100":
        message = f"the disk is full: {message}"
    return kind(message or "The database gave no message.", code=code, details=details, hint=hint)


def _stopped_before_it(code: str, message: str) -> MigrationError | None:
    """The error, if the platform, a gateway or PostgREST's settings stopped the request before it got to execute_sql; else None."""
    if code == "PGRST106":
        return AccessRefused(
            f"The API does not expose the schema public, where execute_sql is: {message}",
            code=code,
            hint="Add public to the Exposed schemas: Project Settings, Data API (self-hosted: PGRST_DB_SCHEMAS).",
        )
    if code in _CLOSED_PROJECTS:
        state, hint = _CLOSED_PROJECTS[code]
        said = f": {message.removesuffix('.')}" if message else ""
        return MigrationError(f"The project is {state}{said}.", code=code, hint=hint)
    if code == "413":
        return SqlError(
            "The request is too large for a gateway on the way (HTTP 413).",
            code=code,
            hint="Raise its limit (nginx: client_max_body_size); or divide the step by a line `-- step: NAME`.",
        )
    return _not_supabase(code, message) if code == "PGRST125" or re.fullmatch(r"\d{3}", code) else None


def _may_not_call(code: str, message: str, details: str | None) -> MigrationError | None:
    """The error, if the API's role lacks a right, rather than the owner of execute_sql, whose errors have details; else None."""
    if code != "42501":
        return None
    if "function execute_sql" in message:
        return AccessRefused(
            "This key may not execute execute_sql.",
            code="42501",
            hint="Set SUPABASE_SERVICE_KEY: execute_sql is open to the service key alone, and must stay that way. Or paste the written file "
            "into the SQL Editor. If this is the service key, its right was revoked; run there: grant execute on function public.execute_sql to "
            "service_role;",
        )
    if message == "permission denied for schema public" and details is None:
        return AccessRefused(
            "The API's role service_role may not use the schema public, where execute_sql is.",
            code="42501",
            hint="Run this in the SQL Editor: grant usage on schema public to service_role;",
        )
    if message == "permission denied for schema rpc_migrations" and details is None:
        return altered("it runs with the rights of whoever calls it (`security invoker`)")
    return None


def _describe(code: str) -> str:
    return f"HTTP {code}" if code.isdigit() and len(code) == 3 else code


def _refused(error: ErrorAnswer) -> AccessRefused:
    """The gateway or PostgREST refused the key."""
    code, message = error.code, error.message.removesuffix(".")
    for known, hint in _KEY_HINTS.items():
        if message.startswith(known):
            since = f" {error.hint.rstrip('.')}." if error.hint and known.startswith("Legacy") else ""
            return AccessRefused(f"The key was refused: {message}.{since}", code=code, hint=hint)
    if not message:
        return AccessRefused(
            f"The request was refused on the way: HTTP {code}.",
            code=code,
            hint="This comes from a gateway, a firewall or a proxy, not from the REST layer. See whether SUPABASE_URL and the key are right, and whether "
            "it lets requests with SQL in them pass to /rest/v1/rpc/execute_sql.",
        )
    mistyped = f"It is mistyped, cut off, or of another project than SUPABASE_URL. {_NEW_KEY}"
    hint = _NEW_KEY if code == "PGRST303" else mistyped
    return AccessRefused(f"The key was refused: {message}.", code=code, hint=hint)


def _is_gone(error: ErrorAnswer) -> bool:
    """Whether execute_sql was dropped, and the REST layer has not noticed yet. What execute_sql itself says has details."""
    return error.code == "42883" and error.message.startswith("function public.execute_sql(") and error.details is None


def _not_deployed(error: ErrorAnswer) -> NotDeployed:
    """No execute_sql takes our arguments, or more than one does. The hint may have another function with a name like it."""
    if error.code == "PGRST203":
        return not_ours(code=error.code, details=error.message)
    if error.hint and "public.execute_sql(" in error.hint:
        return not_ours(code=error.code, details=error.hint)
    return Absent("The function execute_sql is not deployed.", code=error.code, hint=f"Run: {DEPLOY_COMMAND}")


def _not_supabase(code: str, message: str) -> MigrationError:
    """The error for an HTTP status without PostgREST's JSON: something else answers. PGRST125: a PostgREST without a gateway."""
    if code == "PGRST125":
        return NotSupabase(
            "A PostgREST answers at the address in SUPABASE_URL, but not under /rest/v1 as on Supabase.",
            code=code,
            hint="Set SUPABASE_URL to the address of Supabase's API gateway; for a hosted project https://YOUR-PROJECT.supabase.co.",
        )
    reason = f" ({message})" if message else ""
    return NotSupabase(
        f"The address in SUPABASE_URL answers HTTP {code}{reason}, not as Supabase does.",
        code=code,
        hint="Set SUPABASE_URL to the project's URL, https://YOUR-PROJECT.supabase.co; if it is right, see whether the project is paused.",
    )
