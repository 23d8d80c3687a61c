"""The stand-in for PostgREST 16.2 or 14.17: an ASGI application that answers what PostgREST answers.

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

from local_supabase import statements
from local_supabase.errors import JSON_TYPE, RestError, json_response, no_schema_cache, token_error
from local_supabase.pool import Connection, Pool
from local_supabase.schema_cache import SCHEMA, Function, SchemaCache
from local_supabase.transaction import Result, Transaction, Work

VERSIONS = {"14": "14.17", "16": "16.2"}
_OBJECT_TYPE = "application/vnd.pgrst.object+json"
# PostgREST allows for clocks that differ by this much.
_CLOCK_SKEW_SECONDS = 30
_ALL_METHODS = ["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"]


@dataclass
class RestOptions:
    """How the REST layer is set up. Seconds throughout.

    `reload_delay` is waited between the news of a change and its being known, so that tests see PGRST202. `postgrest` is
    the major version that it stands in for, "16" or "14"; `catch_up` is how long 14 refuses requests (PGRST002) after the
    database was down. `safeupdate` says whether requests are refused as pg-safeupdate refuses them: to see what it would refuse costs
    the server more than most statements do (see safeupdate.py), and the library itself next to nothing.
    """

    dsn: str
    secret: str
    postgrest: str = "16"
    catch_up: float = 2.5
    reload_delay: float = 0.0
    pool_size: int = 20
    pool_wait: float = 10.0
    safeupdate: bool = True


class RestLayer:
    """State and requests of one REST layer."""

    def __init__(self, options: RestOptions) -> None:
        self.options = options
        self.cache: SchemaCache | None = None
        self._is_14 = options.postgrest == "14"
        self._is_catching_up = False
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
            if not self._is_14:
                response.headers["Vary"] = "Accept, Prefer, Range"
        except RestError as error:
            response = error.response()
        response.headers["Server"] = f"postgrest/{VERSIONS[self.options.postgrest]}"
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
                self._is_catching_up = self._is_14 and self.cache is not None
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.5)
                continue
            pause = 0.05
            with contextlib.suppress(psycopg.Error):
                async with connection:
                    # Listening comes first: a change after that is news, a change before that is read.
                    await connection.execute("listen pgrst")
                    await self._load(connection, self.options.catch_up if self._is_catching_up else 0.0)
                    self._is_catching_up = False
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
        if self._is_catching_up:
            # Without a server that is what it says; with one, that it does not know its schema yet.
            await (await self.pool.connect()).close()
        if self.cache is None or self._is_catching_up:
            raise no_schema_cache()
        _check_schema(request)
        path = request.scope["rest_path"]
        if path in ("", "/"):
            return _root(self.cache, VERSIONS[self.options.postgrest])
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

        async def call(connection: Connection) -> Any:
            return await (await connection.execute(text, parameters)).fetchone()

        row = await self._run(call, request, claims, function)
        if function.returns_void:
            return Response(status_code=204)
        return Response(row[0] if row else "null", 200, {"Content-Type": JSON_TYPE})

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

        async def work(connection: Connection) -> tuple[str, int, str]:
            rows, number = await (await connection.execute(text, parameters)).fetchone() or ("[]", 0)
            total = "*"
            if prefer.get("count"):
                total = str((await (await connection.execute(*statements.count(table, query))).fetchone() or [0])[0])
            return _single(rows, number) if is_single else rows, number, total

        is_single = _OBJECT_TYPE in request.headers.get("accept", "")
        return _table_response(request.method, *await self._run(work, request, claims), prefer, dict(query))

    async def _run(
        self, work: Work[Result], request: Request, claims: dict[str, Any], function: Function | None = None
    ) -> Result:
        """Do the work in the request's transaction."""
        assert self.cache is not None
        transaction = Transaction(request, claims, self.cache, function, safeupdate=self.options.safeupdate)
        async with self.pool.connection() as connection:
            return await transaction.run(connection, work, repeat=self._is_14)


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


def _root(cache: SchemaCache, version: str) -> Response:
    paths: dict[str, Any] = {"/": {"get": {"tags": ["Introspection"]}}}
    paths |= {f"/{name}": {} for name in cache.tables}
    paths |= {f"/rpc/{function.name}": {"post": {}} for function in cache.functions}
    document = {
        "swagger": "2.0",
        "info": {"description": "", "title": "standard public schema", "version": version},
        "host": "0.0.0.0:3000",
        "basePath": "/",
        "paths": paths,
    }
    response = json_response(document)
    response.headers["Content-Type"] = "application/openapi+json; charset=utf-8"
    return response
