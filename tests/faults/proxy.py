"""A small HTTP proxy between the Supabase client and a (local) Supabase that does to a request what networks, gateways
and impatient people do.
"""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

_HANG_SECONDS = 60.0  # longer than any client here waits
_REASONS = {
    408: "Request Timeout",
    429: "Too Many Requests",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


@dataclass(frozen=True)
class Request:
    """A request as the client sent it. `number` counts from 1."""

    number: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the RPC."""
        return json.loads(self.body) if self.body else {}

    @property
    def step(self) -> str | None:
        """Which step it sends, if it does."""
        return self.arguments.get("step")

    @property
    def query(self) -> str:
        """The SQL text that it sends."""
        return str(self.arguments.get("query", ""))


@dataclass
class Exchange:
    """A request and the ways to deal with it; what a fault is given."""

    request: Request
    connection: socket.socket
    upstream: str
    forwarded: list[bytes] = field(default_factory=list)

    def forward(self) -> bytes:
        """Send the request on; return the whole answer. Raises OSError or HTTPException where there is none."""
        parts = urlsplit(self.upstream)
        assert parts.hostname
        upstream = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_HANG_SECONDS)
        try:
            headers = {
                name: value
                for name, value in self.request.headers.items()
                if name.lower() not in ("connection", "accept-encoding")
            }
            upstream.request(self.request.method, self.request.path, self.request.body, headers)
            answer = upstream.getresponse()
            body = answer.read()
            skipped = ("transfer-encoding", "content-length", "connection", "content-encoding")
            kept = "".join(f"{name}: {value}\r\n" for name, value in answer.getheaders() if name.lower() not in skipped)
            self.forwarded.append(body)
            return (
                f"HTTP/1.1 {answer.status} {answer.reason}\r\n{kept}Content-Length: {len(body)}\r\n\r\n".encode() + body
            )
        finally:
            upstream.close()

    def answer(self, whole: bytes) -> None:
        """Send an answer, or part of one, to the client; one that is gone gets none."""
        with suppress(OSError):
            self.connection.sendall(whole)

    def pass_on(self) -> None:
        """What a proxy is for."""
        self.answer(self.forward())

    def page(self, status: int, headers: dict[str, str] | None = None) -> None:
        """Answer with a gateway's page of HTML."""
        reason = _REASONS.get(status, "Error")
        body = f"<html><head><title>{status} {reason}</title></head><body><h1>{status} {reason}</h1></body></html>".encode()
        self._respond(status, reason, "text/html", body, headers)

    def json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        """Answer with JSON."""
        self._respond(status, _REASONS.get(status, "Error"), "application/json", json.dumps(value).encode(), headers)

    def reset(self) -> None:
        """Close the connection with an RST."""
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close the connection."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()

    def hang(self) -> None:
        """Say nothing until the client gives up."""
        self.connection.settimeout(_HANG_SECONDS)
        with suppress(OSError):
            self.connection.recv(1)
        self.close()

    def _respond(self, status: int, reason: str, kind: str, body: bytes, headers: dict[str, str] | None) -> None:
        extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
        self.answer(head.encode() + body)


Fault = Callable[[Exchange], None]


class FaultProxy:
    """Listens on a free port of 127.0.0.1 and passes requests on, but for those that `choose` has a fault for.

    `choose` is given each request, in the order in which they come, and returns a fault or None; it may also look, or
    do something of its own (it is called before the request is sent on). `requests` has all that came. Errors of
    faults are kept in `errors`: a test looks there at its end. With `alone`, a step is sent on without those that
    follow it, as it is where steps take long.
    """

    def __init__(
        self, upstream: str, choose: Callable[[Request], Fault | None] = lambda request: None, *, alone: bool = False
    ) -> None:
        self.upstream = upstream
        self.choose = choose
        self.alone = alone
        self.requests: list[Request] = []
        self.errors: list[BaseException] = []
        self.port = 0
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._connections: list[socket.socket] = []

    @property
    def url(self) -> str:
        """What goes into SUPABASE_URL."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Listen; at the same port as before, if it was stopped."""
        self._listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        self.port = self._listener.getsockname()[1]
        thread = threading.Thread(target=self._accept, args=(self._listener,), name="fault-proxy", daemon=True)
        thread.start()
        return self

    def stop(self) -> None:
        """Refuse further connections, and close those that are open."""
        if self._listener is not None:
            # shutdown wakes the thread that waits in accept.
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._connections = []

    def wait(self, seconds: float = 20.0) -> None:
        """Wait until the threads of requests that clients have left behind have ended."""
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(seconds)

    def in_background(self, work: Callable[[], Any]) -> None:
        """Do something beside; `wait` waits for it."""
        thread = threading.Thread(target=self._guarded, args=(work,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _guarded(self, work: Callable[[], Any]) -> None:
        try:
            work()
        except BaseException as error:
            self.errors.append(error)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.append(connection)
            thread = threading.Thread(target=self._guarded, args=(lambda c=connection: self._serve(c),), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        """One connection: request after request, until one side closes it."""
        with connection, suppress(ConnectionError):
            reader = connection.makefile("rb")
            while connection.fileno() >= 0 and (parsed := _read_request(reader)) is not None:
                with self._lock:
                    request = Request(len(self.requests) + 1, *parsed)
                    request = _without_followers(request) if self.alone else request
                    self.requests.append(request)
                    fault = self.choose(request)
                exchange = Exchange(request, connection, self.upstream)
                try:
                    (fault or Exchange.pass_on)(exchange)
                except (OSError, http.client.HTTPException):
                    exchange.close()
                    raise


def _without_followers(request: Request) -> Request:
    """The request with its first step alone."""
    arguments = request.arguments
    if arguments.pop("following", None) is None:
        return request
    body = json.dumps(arguments).encode()
    return replace(request, body=body, headers=request.headers | {"Content-Length": str(len(body))})


def _read_request(reader: Any) -> tuple[str, str, dict[str, str], bytes] | None:
    """Method, path, headers and body of the next request; None at the end of the connection."""
    try:
        line = reader.readline()
    except OSError:
        return None
    if not line.strip():
        return None
    method, path, _ = line.decode("latin-1").split(" ", 2)
    message = http.client.parse_headers(reader)
    headers = dict(message.items())
    body = reader.read(int(message.get("Content-Length", 0)))
    return method, path, headers, body
