"""The HTTP side of a local Supabase, running."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import uvicorn
from starlette.applications import Starlette

from local_supabase.database import Database
from local_supabase.gateway import GatewayOptions, gateway_app
from local_supabase.guard import Guard
from local_supabase.keys import Keys
from local_supabase.rest import RestOptions

_TIMEOUT_SECONDS = 30.0


class LocalSupabase:
    """A Supabase project over a database: start it with `start` or as a context manager.

    `url` is where a client finds it; `service_key` and `anon_key` are legacy JWTs, `secret_key` and
    `publishable_key` the newer ones. Arguments:

    - `subprocess`: run it in a process of its own, so that measurements are not disturbed.
    - `meta`: whether `/pg/query` is there (self-hosted and local stacks) or answers 404 (hosted projects).
    - `postgrest`: "16", or "14" as most hosted projects have it; and `catch_up`: see RestOptions.
    - `reload_delay`: seconds between a change and the REST layer knowing of it.
    - `safeupdate`: False where something is measured; see RestOptions.
    - `check_keys`, `legacy_keys_disabled`, `management_limit`: see GatewayOptions.
    - `port`: a fixed one, to stop and start it at the same address.

    With `POSTGREST` in the environment, the program of that name is started in place of the stand-in.
    """

    def __init__(
        self,
        database: Database,
        *,
        subprocess: bool = False,
        meta: bool = True,
        postgrest: str = "16",
        catch_up: float = 2.5,
        reload_delay: float = 0.0,
        check_keys: bool = True,
        legacy_keys_disabled: bool = False,
        management_limit: int = 120,
        pool_size: int = 20,
        pool_wait: float = 10.0,
        safeupdate: bool = True,
        keys: Keys | None = None,
        port: int = 0,
    ) -> None:
        self.database = database
        self.keys = keys or Keys()
        self.postgrest = postgrest
        self.port = port
        self._options = GatewayOptions(
            keys=self.keys,
            rest=RestOptions(
                database.dsn("authenticator"),
                self.keys.secret,
                postgrest,
                catch_up,
                reload_delay,
                pool_size,
                pool_wait,
                safeupdate,
            ),
            meta_dsn=database.dsn("supabase_admin") if meta else None,
            management_dsn=database.dsn("postgres"),
            check_keys=check_keys,
            legacy_keys_disabled=legacy_keys_disabled,
            management_limit=management_limit,
        )
        self._in_subprocess = subprocess
        self._server: _ThreadServer | _ProcessServer | None = None
        self._postgrest: PostgRest | None = None

    @property
    def url(self) -> str:
        """What goes into SUPABASE_URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ref(self) -> str:
        """The project's reference."""
        return self.keys.ref

    @property
    def service_key(self) -> str:
        """The legacy service_role key."""
        return self.keys.service_key

    @property
    def anon_key(self) -> str:
        """The legacy anon key."""
        return self.keys.anon_key

    @property
    def secret_key(self) -> str:
        """The newer key with the service role's rights."""
        return self.keys.secret_key

    @property
    def publishable_key(self) -> str:
        """The newer key for anonymous use."""
        return self.keys.publishable_key

    @property
    def access_token(self) -> str:
        """The personal access token that the Management API's endpoint takes."""
        return self.keys.access_token

    def authenticated_key(self, user_id: str) -> str:
        """The token of a signed-in user, for the Authorization header (and accepted as apikey)."""
        return self.keys.authenticated_key(user_id)

    def make_key(self, role: str, **claims: Any) -> str:
        """Any other JWT; see Keys.make_key."""
        return self.keys.make_key(role, **claims)

    def environment(self) -> dict[str, str]:
        """What a user would have in `.env`."""
        return {
            "SUPABASE_URL": self.url,
            "SUPABASE_SERVICE_KEY": self.service_key,
            "SUPABASE_ANON_KEY": self.anon_key,
        }

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Start it; returns once it answers requests."""
        program = os.environ.get("POSTGREST")
        if program:
            self._postgrest = PostgRest(program, self._options.rest)
            self._options.postgrest_url = self._postgrest.url
        if self._in_subprocess:
            self._server = _ProcessServer(self._options, self.port)
        else:
            self._server = _ThreadServer(gateway_app(self._options), self.port)
        self.port = self._server.port
        return self

    def stop(self) -> None:
        """Stop it; requests that are still running get no answer. It starts again at the same port."""
        if self._server is not None:
            self._server.stop()
            self._server = None
        if self._postgrest is not None:
            self._postgrest.stop()
            self._postgrest = None


def listen(port: int = 0) -> socket.socket:
    """A bound socket on 127.0.0.1, at a free port unless one is given."""
    # Named as TCP, or asyncio does not switch off Nagle's algorithm, which costs 40 ms a request.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound


class Server(uvicorn.Server):
    """uvicorn, with an event for "ready", and stopping at once: a test that ends does not wait for its
    requests.
    """

    def __init__(self, app: Starlette) -> None:
        super().__init__(uvicorn.Config(app, log_level="critical", lifespan="on", server_header=False, ws="none"))
        self.ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, and says when it is done."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        """As uvicorn's, but woken up by `request_stop`."""
        counter = 0
        while not await self.on_tick(counter):
            counter += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 0.1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Without uvicorn's grace: close what listens, cut off what runs, end the application."""
        for listener in self.servers:
            listener.close()
        for bound in sockets or []:
            bound.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        running = list(self.server_state.tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self.lifespan.shutdown()

    def request_stop(self) -> None:
        """Stop soon; may be called from any thread."""
        self.should_exit = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stopping.set)


class _ThreadServer:
    def __init__(self, app: Starlette, port: int) -> None:
        self._socket = listen(port)
        self.port = self._socket.getsockname()[1]
        self._server = Server(app)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="local-supabase", daemon=True
        )
        self._thread.start()
        if not self._server.ready.wait(_TIMEOUT_SECONDS):
            raise RuntimeError("The local Supabase did not start.")

    def stop(self) -> None:
        self._server.request_stop()
        self._thread.join(_TIMEOUT_SECONDS)
        self._socket.close()


class _ProcessServer:
    def __init__(self, options: GatewayOptions, port: int) -> None:
        command = [sys.executable, "-m", "local_supabase.worker"]
        path = os.pathsep.join(filter(None, [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"options": asdict(options), "port": port}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("The local Supabase did not start.")
        self.port = int(line)

    def stop(self) -> None:
        # Its standard input ends, and so does it.
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(_TIMEOUT_SECONDS)
        self._process.stdout.close()


class PostgRest:
    """The real PostgREST, on a free port, set up as on Supabase."""

    def __init__(self, program: str, options: RestOptions) -> None:
        with listen() as one, listen() as other:
            port, admin_port = one.getsockname()[1], other.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        settings = {
            "PGRST_DB_URI": options.dsn,
            "PGRST_DB_SCHEMAS": "public",
            "PGRST_DB_EXTRA_SEARCH_PATH": "public, extensions",
            "PGRST_DB_ANON_ROLE": "anon",
            "PGRST_DB_POOL": str(options.pool_size),
            "PGRST_DB_POOL_ACQUISITION_TIMEOUT": str(int(options.pool_wait)),
            "PGRST_JWT_SECRET": options.secret,
            "PGRST_SERVER_HOST": "127.0.0.1",
            "PGRST_SERVER_PORT": str(port),
            "PGRST_ADMIN_SERVER_PORT": str(admin_port),
            "PGRST_LOG_LEVEL": "crit",
        }
        self._guard = Guard(Path(tempfile.mkdtemp(prefix="postgrest-", dir="/tmp")))
        environment = {**os.environ, **settings}
        self._process = subprocess.Popen([program], env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
        self._guard.watch(self._process.pid)
        self._wait_until_ready(f"http://127.0.0.1:{admin_port}/ready")

    def stop(self) -> None:
        """Stop it, without waiting for its requests."""
        self._process.kill()
        self._process.wait(_TIMEOUT_SECONDS)
        self._guard.forget(self._process.pid)
        self._guard.release()

    def _wait_until_ready(self, url: str) -> None:
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"PostgREST ended with exit code {self._process.returncode}.")
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(url).status_code == 200:
                    return
            time.sleep(0.01)
        raise RuntimeError("PostgREST did not become ready.")
