"""The transaction that a request is: its isolation level, its role and settings, and what becomes of it when it fails."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
from starlette.requests import Request

from local_supabase import safeupdate
from local_supabase.errors import RestError, database_error
from local_supabase.pool import Connection
from local_supabase.schema_cache import SCHEMA, Function, SchemaCache

Result = TypeVar("Result")
Work = Callable[[Connection], Awaitable[Result]]

_SEARCH_PATH = f'"{SCHEMA}", "extensions"'
_ISOLATION = "default_transaction_isolation"
_ISOLATION_LEVELS = ("repeatable read", "serializable")
# serialization_failure and deadlock_detected
_REPEATED = ("40001", "40P01")


class Transaction:
    """What a request does in the database. `function` is the one that it calls, if it does; `safeupdate` as in RestOptions."""

    def __init__(
        self,
        request: Request,
        claims: dict[str, Any],
        cache: SchemaCache,
        function: Function | None,
        *,
        safeupdate: bool,
    ) -> None:
        self._request = request
        self._claims = claims
        self._role = str(claims["role"])
        self._role_settings = cache.role_settings.get(self._role, {})
        self._function_settings = function.settings if function else {}
        self._is_watched = safeupdate
        self._is_read = request.method in ("GET", "HEAD") or (function is not None and not function.volatile)

    async def run(self, connection: Connection, work: Work[Result], *, repeat: bool) -> Result:
        """Do the work and commit it; database errors leave as RestError.

        With `repeat`, a failure that another attempt may not meet is no error: it is done again at once, for as long as it
        takes, whether or not anybody waits for it (hasql-transaction 1.1, the library of PostgREST 14, does so).
        """
        while True:
            try:
                return await self._attempt(connection, work)
            except RestError as error:
                if not repeat or error.body["code"] not in _REPEATED:
                    raise

    async def _attempt(self, connection: Connection, work: Work[Result]) -> Result:
        watch = safeupdate.Watch()
        try:
            with watch.on(connection):
                async with connection.transaction():
                    await self._begin(connection)
                    result = await work(connection)
                    # Here and not in the commit, so that what is deferred is seen in time.
                    await connection.execute("set constraints all immediate")
                    if self._is_watched:
                        _refuse(watch.refusal or safeupdate.refusal_unseen(await self._request.body()))
            return result
        except psycopg.Error as error:
            if connection.closed:
                raise
            _refuse(watch.refusal)
            raise database_error(error, self._role) from error
        finally:
            if watch.refusal:
                # A statement is seen when it is analysed, and this session keeps its plan.
                await connection.close()

    async def _begin(self, connection: Connection) -> None:
        """The level is the function's own, or the role's, and never that of the session: PostgREST names it."""
        level = {**self._role_settings, **self._function_settings}.get(_ISOLATION, "").lower()
        level = level if level in _ISOLATION_LEVELS else "read committed"
        await connection.execute(f"set transaction isolation level {level} read {'only' if self._is_read else 'write'}")
        settings = self._settings()
        calls = ", ".join(f"set_config(${2 * n + 1}, ${2 * n + 2}, true)" for n in range(len(settings)))
        await connection.execute(f"select {calls}", [text for pair in settings for text in pair])

    def _settings(self) -> list[tuple[str, str]]:
        """In PostgREST's order: the role's own settings before the role, the function's last."""
        headers = {key: value for key, value in self._request.headers.items() if key != "cookie"}
        return [
            ("search_path", _SEARCH_PATH),
            *((name, value) for name, value in self._role_settings.items() if name != _ISOLATION),
            ("role", self._role),
            ("request.jwt.claims", json.dumps(self._claims)),
            ("request.method", self._request.method),
            ("request.path", self._request.scope["rest_path"]),
            ("request.headers", json.dumps(headers)),
            ("request.cookies", json.dumps(self._request.cookies)),
            *self._function_settings.items(),
            *(safeupdate.SETTINGS if self._is_watched else ()),
        ]


def _refuse(message: str | None) -> None:
    if message is not None:
        raise RestError(400, "21000", message)
