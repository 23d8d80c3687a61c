"""The stand-in for PostgREST 16.2: an ASGI application that answers what PostgREST answers.

What it does is what this project and the application under migration use: RPC, the simpler table requests,
and the root document. It holds itself to answers recorded from the real one (postgrest_answers/).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import jwt
import psycopg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local_supabase import safeupdate, statements
from local_supabase.errors import JSON_TYPE, RestError, database_error, json_response, token_error
from local_supabase.pool import Connection, Pool
from local_supabase.schema_cache import SCHEMA, Function, SchemaCache

VERSION = "16.2"
_SEARCH_PATH = f'"{SCHEMA}", "extensions"'
_OBJECT_TYPE = "application/vnd.pgrst.object+json"
# PostgREST allows for clocks that differ by this much.
_CLOCK_SKEW_SECONDS = 30
_ALL_METHODS = ["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"]


@dataclass
class RestOptions:
    """How the REST layer is set up. Seconds throughout.

    `reload_delay` is waited between the news of a change and its being known, so that tests see PGRST202.
    """

    dsn: str
    secret: str
    reload_delay: float = 0.0
    pool_size: int = 20
    pool_wait: float = 10.0


class RestLayer:
    """State and requests of one REST layer."""

    def __init__(self, options: RestOptions) -> None:
        self.options = options
        self.cache: SchemaCache | None = None
        self._pool: Pool | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Within it the schema cache follows the database; entered once that has been read or cannot be."""
        self._pool = Pool(self.options.dsn, self.options.pool_size, self.options.pool_wait)
        loaded = asyncio.Event()
        listener = asyncio.create_task(self._listen(loaded))
        try:
            await loaded.wait()
            yield
        finally:
            listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listener
            await self._pool.close()

    async def __call__(self, request: Request) -> Response:
        """Answer a request; the path begins below /rest/v1."""
        try:
            response = await self._answer(request)
        except RestError as error:
            response = error.response()
        response.headers["Server"] = f"postgrest/{VERSION}"
        return response

    async def _listen(self, loaded: asyncio.Event) -> None:
        """Read the cache, and again whenever there is news; after a lost connection, until there is one
        again.
        """
        pause = 0.05
        while True:
            try:
                connection = await self.pool.connect()
            except RestError:
                # Without a database it starts all the same, and says so to who asks (PGRST002).
                loaded.set()
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.5)
                continue
            pause = 0.05
            with contextlib.suppress(psycopg.Error):
                async with connection:
                    # Listening comes first: a change after that is news, a change before that is read.
                    await connection.execute("listen pgrst")
                    await self._load(connection)
                    loaded.set()
                    while True:
                        async for _ in connection.notifies(stop_after=1):
                            pass
                        await self._load(connection, self.options.reload_delay)

    async def _load(self, connection: Connection, delay: float = 0.0) -> None:
        if delay:
            await asyncio.sleep(delay)
        self.cache = await SchemaCache.load(connection)

    @property
    def pool(self) -> Pool:
        """The connections; there only while running."""
        assert self._pool is not None
        return self._pool

    async def _answer(self, request: Request) -> Response:
        claims = self._claims(request)
        if self.cache is None:
            message = "Could not query the database for the schema cache. Retrying."
            raise RestError(503, "PGRST002", message)
        _check_schema(request)
        path = request.scope["rest_path"]
        if path in ("", "/"):
            return _root(self.cache)
        name = path.removeprefix("/")
        if name.startswith("rpc/"):
            return await self._rpc(request, name.removeprefix("rpc/"), claims)
        if "/" in name:
            raise RestError(404, "PGRST125", "Invalid path specified in request URL")
        return await self._table(request, name, claims)

    def _claims(self, request: Request) -> dict[str, Any]:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return {"role": "anon"}
        parts = len(token.split("."))
        if parts != 3:
            raise token_error("PGRST301", f"Expected 3 parts in JWT; got {parts}")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self.options.secret,
                ["HS256"],
                options={"verify_exp": False, "verify_aud": False, "verify_iat": False, "verify_nbf": False},
            )
        except jwt.InvalidTokenError:
            details = "None of the keys was able to decode the JWT"
            raise token_error("PGRST301", "No suitable key or wrong key type", details) from None
        if claims.get("exp", time.time()) < time.time() - _CLOCK_SKEW_SECONDS:
            raise token_error("PGRST303", "JWT expired")
        return {"role": "anon", **claims}

    async def _rpc(self, request: Request, name: str, claims: dict[str, Any]) -> Response:
        assert self.cache is not None
        if request.method not in ("GET", "HEAD", "POST"):
            raise RestError(405, "PGRST101", f"Cannot use the {request.method} method on RPC")
        arguments, body, content_type = await _arguments(request)
        function = self.cache.find_function(name, arguments, content_type)
        text, parameters = statements.call(function, arguments, body)
        async with self._transaction(request, claims, function) as connection:
            await self._refuse_unqualified(connection, function, arguments)
            row = await (await connection.execute(text, parameters)).fetchone()
        if function.returns_void:
            return Response(status_code=204)
        return Response(row[0] if row else "null", 200, {"Content-Type": JSON_TYPE})

    async def _refuse_unqualified(self, connection: Connection, function: Function, arguments: dict[str, Any]) -> None:
        """What pg-safeupdate does; a caller without the right to execute learns of that first."""
        if not function.runs_text:
            return
        texts = (value for value in arguments.values() if isinstance(value, str))
        message = next(filter(None, map(safeupdate.refusal, texts)), None)
        if message:
            allowed = await connection.execute("select has_function_privilege($1::oid, 'execute')", [function.oid])
            if (await allowed.fetchone() or [False])[0]:
                raise RestError(400, "21000", message)

    async def _table(self, request: Request, name: str, claims: dict[str, Any]) -> Response:
        assert self.cache is not None
        if request.method not in ("GET", "HEAD", "POST", "PATCH", "DELETE"):
            raise RestError(405, "PGRST117", f"Unsupported HTTP method: {request.method}")
        table = self.cache.find_table(name)
        query = request.query_params.multi_items()
        prefer = _preferences(request)
        body = (await request.body()).decode()
        if request.method == "POST":
            text, parameters = statements.insert(table, query, body, prefer.get("resolution"))
        elif request.method == "PATCH":
            text, parameters = statements.update(table, query, body)
        elif request.method == "DELETE":
            text, parameters = statements.delete(table, query)
        else:
            text, parameters = statements.read(table, query)
        if request.method in ("PATCH", "DELETE") and not statements.has_filters(query):
            word = "UPDATE" if request.method == "PATCH" else "DELETE"
            raise RestError(400, "21000", f"{word} requires a WHERE clause")
        async with self._transaction(request, claims) as connection:
            row = await (await connection.execute(text, parameters)).fetchone()
            rows, number = row or ("[]", 0)
            total = "*"
            if prefer.get("count"):
                total = str((await (await connection.execute(*statements.count(table, query))).fetchone() or [0])[0])
            rows = _single(rows, number) if _OBJECT_TYPE in request.headers.get("accept", "") else rows
        return _table_response(request.method, rows, number, total, prefer, dict(query))

    @contextlib.asynccontextmanager
    async def _transaction(
        self, request: Request, claims: dict[str, Any], function: Function | None = None
    ) -> AsyncIterator[Connection]:
        """A transaction with role and settings of the request; database errors leave it as RestError."""
        role = str(claims["role"])
        async with self.pool.connection() as connection:
            try:
                async with connection.transaction():
                    if request.method in ("GET", "HEAD") or (function and not function.volatile):
                        await connection.execute("set transaction read only")
                    settings = self._settings(request, claims, role, function)
                    calls = ", ".join(f"set_config(${2 * n + 1}, ${2 * n + 2}, true)" for n in range(len(settings)))
                    await connection.execute(f"select {calls}", [text for pair in settings for text in pair])
                    yield connection
            except psycopg.Error as error:
                if connection.closed:
                    raise
                raise database_error(error, role) from error

    def _settings(
        self, request: Request, claims: dict[str, Any], role: str, function: Function | None
    ) -> list[tuple[str, str]]:
        """In PostgREST's order: the role's own settings before the role, the function's last."""
        assert self.cache is not None
        headers = {key: value for key, value in request.headers.items() if key != "cookie"}
        return [
            ("search_path", _SEARCH_PATH),
            *self.cache.role_settings.get(role, {}).items(),
            ("role", role),
            ("request.jwt.claims", json.dumps(claims)),
            ("request.method", request.method),
            ("request.path", request.scope["rest_path"]),
            ("request.headers", json.dumps(headers)),
            ("request.cookies", json.dumps(request.cookies)),
            *(function.settings.items() if function else ()),
        ]


def rest_app(options: RestOptions) -> Starlette:
    """The REST layer alone, at the root, as PostgREST itself is; the gateway mounts it below /rest/v1."""
    layer = RestLayer(options)

    async def answer(request: Request) -> Response:
        request.scope["rest_path"] = request.url.path
        return await layer(request)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with layer.running():
            yield

    return Starlette(routes=[Route("/{path:path}", answer, methods=_ALL_METHODS)], lifespan=lifespan)


def _check_schema(request: Request) -> None:
    """The schema that a client asks for, by the header that goes with the method: only public is exposed."""
    header = "Accept-Profile" if request.method in ("GET", "HEAD") else "Content-Profile"
    schema = request.headers.get(header, SCHEMA)
    if schema != SCHEMA:
        hint = f"Only the following schemas are exposed: {SCHEMA}"
        raise RestError(406, "PGRST106", f"Invalid schema: {schema}", hint=hint)


async def _arguments(request: Request) -> tuple[dict[str, Any], str, str | None]:
    """Named arguments, the JSON text they are in, and the body's content type (None without a body)."""
    if request.method != "POST":
        named = dict(request.query_params)
        named.pop("apikey", None)
        return named, json.dumps(named), None
    body = (await request.body()).decode()
    content_type = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if content_type == "text/plain":
        return {}, body, content_type
    try:
        value = json.loads(body or "{}")
    except ValueError:
        raise RestError(400, "PGRST102", "Empty or invalid json") from None
    if isinstance(value, list):
        value = value[0] if value else {}
        body = json.dumps(value)
    return value if isinstance(value, dict) else {}, body, "application/json"


def _preferences(request: Request) -> dict[str, str]:
    parts = ",".join(request.headers.getlist("prefer")).replace(" ", "").split(",")
    return dict(part.split("=", 1) for part in parts if "=" in part)


def _single(rows: str, number: int) -> str:
    if number != 1:
        details = f"The result contains {number} rows"
        raise RestError(406, "PGRST116", "Cannot coerce the result to a single JSON object", details)
    return json.dumps(json.loads(rows)[0])


def _table_response(
    method: str, rows: str, number: int, total: str, prefer: dict[str, str], query: dict[str, str]
) -> Response:
    first = int(query.get("offset", 0))
    span = f"{first}-{first + number - 1}" if number else "*"
    headers = {"Content-Type": JSON_TYPE, "Content-Range": f"{span}/{total}"}
    if method in ("GET", "HEAD"):
        partial = total != "*" and number < int(total)
        return Response(rows if method == "GET" else "", 206 if partial else 200, headers)
    if prefer.get("return") == "representation":
        return Response(rows, 201 if method == "POST" else 200, headers)
    return Response(status_code=201 if method == "POST" else 204, headers={"Content-Range": f"*/{total}"})


def _root(cache: SchemaCache) -> Response:
    paths: dict[str, Any] = {"/": {"get": {"tags": ["Introspection"]}}}
    paths |= {f"/{name}": {} for name in cache.tables}
    paths |= {f"/rpc/{function.name}": {"post": {}} for function in cache.functions}
    document = {
        "swagger": "2.0",
        "info": {"description": "", "title": "standard public schema", "version": VERSION},
        "host": "0.0.0.0:3000",
        "basePath": "/",
        "paths": paths,
    }
    response = json_response(document)
    response.headers["Content-Type"] = "application/openapi+json; charset=utf-8"
    return response
