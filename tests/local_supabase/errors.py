"""The errors of the REST layer, as PostgREST words them and maps them to HTTP."""

from __future__ import annotations

import json
from typing import Any

import psycopg
from starlette.responses import Response

JSON_TYPE = "application/json; charset=utf-8"

# SQLSTATE, or the beginning of one, to HTTP status: the longest entry that fits counts (PostgREST's
# documentation, "Errors", section "HTTP Status Codes"). What is not here is 400.
_STATUS = {
    "08": 503,
    "09": 500,
    "0L": 403,
    "0P": 403,
    "21000": 500,
    "23503": 409,
    "23505": 409,
    "25": 500,
    "25006": 405,
    "28": 403,
    "2D": 500,
    "38": 500,
    "39": 500,
    "3B": 500,
    "40": 500,
    "42501": 403,
    "42883": 404,
    "42P01": 404,
    "42P17": 500,
    "53": 503,
    "53400": 500,
    "54": 500,
    "55": 500,
    "57": 500,
    "57P01": 503,
    "58": 500,
    "F0": 500,
    "HV": 500,
    "P0": 500,
    "P0001": 400,
    "XX": 500,
}


class RestError(Exception):
    """An error answer of PostgREST's form."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: str | None = None,
        hint: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"code": code, "details": details, "hint": hint, "message": message}
        self.headers = {"Proxy-Status": f"PostgREST; error={code}", **(headers or {})}

    def response(self) -> Response:
        """The HTTP answer."""
        return json_response(self.body, self.status, self.headers)


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer with a JSON body, compact as PostgREST's."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Response(body, status, {**(headers or {}), "Content-Type": JSON_TYPE})


def token_error(code: str, message: str, details: str | None = None) -> RestError:
    """A JWT that PostgREST does not accept."""
    header = f'Bearer error="invalid_token", error_description="{message}"'
    return RestError(401, code, message, details, headers={"WWW-Authenticate": header})


def database_error(error: psycopg.Error, role: str) -> RestError:
    """What PostgreSQL said, as PostgREST passes it on to a caller with this role."""
    code = error.sqlstate or "XX000"
    diagnostics = error.diag
    message = diagnostics.message_primary or str(error)
    status = _status(code, message, role)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return RestError(status, code, message, diagnostics.message_detail, diagnostics.message_hint, headers)


def connection_lost(details: str = "no connection to the server\n") -> RestError:
    """The connection broke while the request ran; whether it took effect is unknown."""
    message = "Database client error. Retrying the connection."
    return RestError(503, "PGRST001", message, details, headers={"Retry-After": "0"})


def no_connection(error: Exception) -> RestError:
    """The database could not be reached: nothing has happened."""
    return RestError(503, "PGRST000", "Database connection error.", str(error), headers={"Retry-After": "0"})


def no_schema_cache() -> RestError:
    """The database has not been read yet, or not since it was down: nothing has happened."""
    message = "Could not query the database for the schema cache. Retrying."
    return RestError(503, "PGRST002", message, headers={"Retry-After": "0"})


def _status(code: str, message: str, role: str) -> int:
    if code.startswith("PT") and code[2:].isdigit():
        return int(code[2:])
    if code == "21000" and message.endswith("requires a WHERE clause"):
        return 400
    if code == "22023" and message.startswith("role") and message.endswith("does not exist"):
        return 401
    if code == "42501" and role == "anon":
        return 401
    return next((_STATUS[code[:size]] for size in (5, 2) if code[:size] in _STATUS), 400)
