"""The other ways to run SQL over HTTP: postgres-meta's /query, and the Management API's query endpoint."""

from __future__ import annotations

import json
import shutil
import time
from collections import deque
from typing import Any

import psycopg
from psycopg import AsyncConnection
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

# Values of these types are numbers, truth values or JSON in the answer; all others are PostgreSQL's text for
# them.
_NATIVE = {
    "bool",
    "int2",
    "int4",
    "int8",
    "oid",
    "float4",
    "float8",
    "json",
    "jsonb",
    "text[]",
    "int4[]",
    "name[]",
}
_MINUTE_SECONDS = 60.0


class SqlError(Exception):
    """An SQL error with all that postgres-meta says of it."""

    def __init__(self, error: psycopg.Error, text: str) -> None:
        diagnostics = error.diag
        self.body: dict[str, Any] = {
            "name": "error",
            "severity": diagnostics.severity,
            "code": error.sqlstate,
            "detail": diagnostics.message_detail,
            "hint": diagnostics.message_hint,
            "position": diagnostics.statement_position,
            "where": diagnostics.context,
            "message": diagnostics.message_primary or str(error),
        }
        self.body["formattedError"] = _formatted(self.body, text)
        self.body = {key: value for key, value in self.body.items() if value is not None}
        super().__init__(self.body["formattedError"])


async def run_text(dsn: str, text: str) -> list[dict[str, Any]]:
    """Run a text of SQL as one simple query: several statements are one transaction unless the text commits
    itself.

    Returns the rows of the last statement. Raises SqlError, or psycopg.Error without a server.
    """
    connection = await AsyncConnection.connect(dsn, autocommit=True)
    try:
        async with connection.cursor() as cursor:
            await cursor.execute(text.encode())
            while cursor.nextset():
                pass
            return _rows(cursor)
    except psycopg.Error as error:
        if error.sqlstate is None:
            raise
        raise SqlError(error, text) from error
    finally:
        await connection.close()


async def postgres_meta(request: Request, dsn: str) -> Response:
    """`POST /pg/query` with `{"query": …}`; the gateway has checked the key."""
    text = await _query(request)
    if not text:
        return JSONResponse({"error": "query not found"}, 400)
    try:
        return _json(await run_text(dsn, text), 200)
    except SqlError as error:
        return _json(error.body, 400)
    except psycopg.Error as error:
        return _json({"error": str(error)}, 500)


class ManagementApi:
    """`/v1/projects/{ref}/database/query` and `/config/disk/util` with a personal access token, `limit` requests a minute."""

    def __init__(self, dsn: str, ref: str, access_token: str, limit: int) -> None:
        self._dsn = dsn
        self._ref = ref
        self._access_token = access_token
        self._limit = limit
        self._times: deque[float] = deque()

    async def query(self, request: Request) -> Response:
        """Answer a request to run SQL."""
        if refusal := self._refusal(request):
            return refusal
        try:
            return _json(await run_text(self._dsn, await _query(request)), 201)
        except SqlError as error:
            return _json({"message": f"Failed to run sql query: {error}"}, 400)
        except psycopg.Error:
            return _json({"message": "Failed to run sql query: connection failed"}, 544)

    async def disk(self, request: Request) -> Response:
        """Answer a request for the use of the disk: that of this machine."""
        if refusal := self._refusal(request):
            return refusal
        size, used, free = shutil.disk_usage("/")
        return _json({"metrics": {"fs_size_bytes": size, "fs_avail_bytes": free, "fs_used_bytes": used}}, 200)

    def _refusal(self, request: Request) -> Response | None:
        if request.headers.get("authorization") != f"Bearer {self._access_token}":
            return _json({"message": "Unauthorized"}, 401)
        if not self._within_limit():
            return _json({"message": "ThrottlerException: Too Many Requests"}, 429)
        if request.path_params["ref"] != self._ref:
            return _json({"message": "Project not found"}, 404)
        return None

    def _within_limit(self) -> bool:
        now = time.monotonic()
        while self._times and self._times[0] < now - _MINUTE_SECONDS:
            self._times.popleft()
        if len(self._times) >= self._limit:
            return False
        self._times.append(now)
        return True


async def _query(request: Request) -> str:
    try:
        body = json.loads(await request.body())
    except ValueError:
        return ""
    return str(body.get("query") or "") if isinstance(body, dict) else ""


def _json(value: Any, status: int) -> Response:
    body = json.dumps(value, ensure_ascii=False, default=str)
    return Response(body, status, {"Content-Type": "application/json; charset=utf-8"})


def _rows(cursor: psycopg.AsyncCursor[Any]) -> list[dict[str, Any]]:
    result = cursor.pgresult
    if result is None or cursor.description is None:
        return []
    columns = [(column.name, _type_name(column.type_code), column.type_code) for column in cursor.description]
    transformer = psycopg.adapt.Transformer(cursor)
    return [
        {
            name: _value(result.get_value(row, place), kind, transformer.get_loader(oid, psycopg.pq.Format.TEXT))
            for place, (name, kind, oid) in enumerate(columns)
        }
        for row in range(result.ntuples)
    ]


def _type_name(oid: int) -> str:
    info = psycopg.adapters.types.get(oid)
    return "" if info is None else f"{info.name}[]" if oid == info.array_oid else info.name


def _value(raw: bytes | None, kind: str, loader: Any) -> Any:
    if raw is None:
        return None
    return loader.load(raw) if kind in _NATIVE else raw.decode()


def _formatted(body: dict[str, Any], text: str) -> str:
    """The error as psql would show it."""
    lines = [f"{body['severity']}:  {body['code']}: {body['message']}"]
    if body["position"]:
        before = text[: int(body["position"]) - 1]
        start = before.rfind("\n") + 1
        label = f"LINE {before.count(chr(10)) + 1}: "
        lines += [label + text[start:].split("\n", 1)[0], " " * (len(label) + len(before) - start) + "^"]
    for key, label in (("detail", "DETAIL"), ("hint", "HINT"), ("where", "CONTEXT")):
        if body[key]:
            lines.append(f"{label}:  {body[key]}")
    return "\n".join(lines) + "\n"
