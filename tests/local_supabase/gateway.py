"""The gateway in front of a Supabase project: it asks for an API key and passes requests on.

It answers wrong keys itself, with a message and a hint but without a code, and turns the newer opaque keys
into the JWTs that the services behind it understand.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import httpx
import jwt
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local_supabase.errors import json_response
from local_supabase.keys import Keys
from local_supabase.rest import RestLayer, RestOptions
from local_supabase.sql_endpoints import ManagementApi, postgres_meta

_METHODS = ["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"]
_HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "host", "content-encoding")
Handler = Callable[[Request], Awaitable[Response]]


@dataclass
class GatewayOptions:
    """What the gateway stands in front of, and how strict it is.

    `postgrest_url` is the real PostgREST's address, if it runs; `meta_dsn` is None on a hosted project, where
    postgres-meta is not to be reached. `check_keys=False` only asks that there be a key.
    """

    keys: Keys
    rest: RestOptions
    meta_dsn: str | None
    management_dsn: str
    postgrest_url: str | None = None
    check_keys: bool = True
    legacy_keys_disabled: bool = False
    management_limit: int = 120


class Refusal(Exception):
    """The gateway's own refusal."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.body = {"message": message} | ({"hint": hint} if hint else {})


class Gateway:
    """Checks keys."""

    def __init__(self, options: GatewayOptions) -> None:
        self._options = options
        self._opaque = {
            options.keys.secret_key: options.keys.service_key,
            options.keys.publishable_key: options.keys.anon_key,
        }

    def admit(self, request: Request) -> str:
        """The JWT that the request goes on with; raises Refusal."""
        key = request.headers.get("apikey") or request.query_params.get("apikey")
        if not key:
            hint = "No `apikey` request header or url param was found."
            raise Refusal("No API key found in request", hint)
        if key.startswith("sb_"):
            self._check_opaque(key, request)
        elif self._options.legacy_keys_disabled:
            raise Refusal(
                "Legacy API keys are disabled",
                "Your legacy API keys (anon, service_role) were disabled on "
                "2026-10-01T12:00:00.000000+00:00. "
                "Re-enable them in the Supabase dashboard, or use the new publishable and secret API keys.",
            )
        elif self._options.check_keys and not self._is_ours(key):
            hint = "Double check your Supabase `anon` or `service_role` API key."
            raise Refusal("Invalid API key", hint)
        token = request.headers.get("authorization", "").removeprefix("Bearer ") or key
        return self._opaque.get(token, token)

    def is_service(self, token: str) -> bool:
        """Whether a token that was admitted is the service role's."""
        try:
            return bool(jwt.decode(token, self._options.keys.secret, ["HS256"])["role"] == "service_role")
        except (jwt.InvalidTokenError, KeyError):
            return False

    def _check_opaque(self, key: str, request: Request) -> None:
        if key not in self._opaque:
            raise Refusal("Unregistered API key", "Double check that the API key belongs to this project.")
        if key.startswith("sb_secret_") and "Mozilla/" in request.headers.get("user-agent", ""):
            raise Refusal("Forbidden use of secret API key in browser", "Use a publishable key instead.")

    def _is_ours(self, key: str) -> bool:
        """Signed by us. Whether it has expired is for the service behind to say."""
        try:
            jwt.decode(key, self._options.keys.secret, ["HS256"], options={"verify_exp": False, "verify_aud": False})
        except jwt.InvalidTokenError:
            return False
        return True


def gateway_app(options: GatewayOptions) -> Starlette:
    """The whole HTTP side of a project as one ASGI application."""
    gateway = Gateway(options)
    rest: RestLayer | Proxy = Proxy(options.postgrest_url) if options.postgrest_url else RestLayer(options.rest)
    management = ManagementApi(
        options.management_dsn, options.keys.ref, options.keys.access_token, options.management_limit
    )

    def guarded(handler: Handler) -> Handler:
        async def answer(request: Request) -> Response:
            try:
                token = gateway.admit(request)
            except Refusal as error:
                # Its body is JSON, its content type is not: so it was recorded.
                return Response(json.dumps(error.body), 401, {"Content-Type": "text/plain"})
            _replace_header(request, b"authorization", f"Bearer {token}")
            return await handler(request)

        return answer

    async def rest_layer(request: Request) -> Response:
        request.scope["rest_path"] = "/" + request.path_params["path"]
        return await rest(request)

    async def meta(request: Request) -> Response:
        if options.meta_dsn is None:
            return await _nothing_here(request)
        if not gateway.is_service(request.headers["authorization"].removeprefix("Bearer ")):
            return json_response({"message": "You cannot consume this service"}, 403)
        return await postgres_meta(request, options.meta_dsn)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with rest.running():
            yield

    routes = [
        Route("/rest/v1/{path:path}", guarded(rest_layer), methods=_METHODS),
        Route("/pg/query", guarded(meta), methods=["POST"]),
        Route("/v1/projects/{ref}/database/query", management.query, methods=["POST"]),
        Route("/v1/projects/{ref}/config/disk/util", management.disk, methods=["GET"]),
        Route("/{path:path}", _nothing_here, methods=_METHODS),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


async def _nothing_here(_: Request) -> Response:
    return json_response({"error": "requested path is invalid"}, 404)


class Proxy:
    """Passes requests on to a real PostgREST."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: httpx.AsyncClient | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Within it there is a client."""
        async with httpx.AsyncClient(base_url=self._url, timeout=None) as self._client:
            yield

    async def __call__(self, request: Request) -> Response:
        """Pass one request on, and its answer back."""
        assert self._client is not None
        headers = [(key, value) for key, value in request.headers.items() if key not in _HOP_BY_HOP]
        url = httpx.URL(request.scope["rest_path"], query=request.url.query.encode())
        try:
            answer = await self._client.request(request.method, url, headers=headers, content=await request.body())
        except httpx.TransportError as error:
            return Response(f"upstream: {error}", 502, media_type="text/plain")
        kept = {key: value for key, value in answer.headers.items() if key not in _HOP_BY_HOP}
        return Response(answer.content, answer.status_code, kept)


def _replace_header(request: Request, name: bytes, value: str) -> None:
    kept = [(key, old) for key, old in request.scope["headers"] if key != name]
    request.scope["headers"] = [*kept, (name, value.encode())]
    # Starlette reads headers once per request object.
    if hasattr(request, "_headers"):
        del request._headers
