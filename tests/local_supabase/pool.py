"""Connections of the REST layer to its database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor

from local_supabase.errors import RestError, connection_lost, no_connection

Connection = AsyncConnection[Any]


class Pool:
    """A pool that behaves like PostgREST's where it shows: a database that is down answers at once
    (PGRST000), a connection that breaks is told to the request that was on it (PGRST001), a full pool makes
    wait (PGRST003).

    psycopg_pool is not used because it reconnects behind the scenes, and its callers wait in the meantime.
    """

    def __init__(self, dsn: str, size: int, wait_seconds: float) -> None:
        self._dsn = dsn
        self._places = asyncio.Semaphore(size)
        self._wait_seconds = wait_seconds
        self._idle: list[Connection] = []

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for one request; raises RestError."""
        try:
            await asyncio.wait_for(self._places.acquire(), self._wait_seconds)
        except TimeoutError:
            message = "Timed out acquiring connection from connection pool."
            raise RestError(504, "PGRST003", message) from None
        try:
            connection = self._idle.pop() if self._idle else await self.connect()
            try:
                yield connection
            except psycopg.Error as error:
                if not connection.closed:
                    raise
                # The others are as broken, most likely: PostgREST starts afresh as well.
                await self.close()
                raise connection_lost() from error
            finally:
                await self._take_back(connection)
        finally:
            self._places.release()

    async def connect(self) -> Connection:
        """A new connection in autocommit mode; raises RestError when there is none to be had."""
        try:
            return await AsyncConnection.connect(self._dsn, autocommit=True, cursor_factory=AsyncRawCursor)
        except psycopg.OperationalError as error:
            raise no_connection(error) from error

    async def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await self._idle.pop().close()

    async def _take_back(self, connection: Connection) -> None:
        if connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            self._idle.append(connection)
        else:
            await connection.close()
