"""What the machine's environment says of proxies and certificates; and a server whose certificate nobody vouches for."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from checkout import MIGRATION_FILE, Checkout, said
from faults.proxy import Exchange, FaultProxy
from local_supabase import Cluster, LocalSupabase
from local_supabase.server import listen
from projects import project

HOSTED = "https://abcdefghijklmnopqrst.supabase.co"
KEY = "sb_secret_" + "x" * 30


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[LocalSupabase]:
    with project(cluster, rows=5) as running:
        yield running


@pytest.mark.parametrize(
    ("variables", "texts"),
    [
        ({"ALL_PROXY": "socks5://127.0.0.1:1080"}, ["A SOCKS proxy is set (ALL_PROXY)", "pip install 'httpx[socks]'"]),
        ({"https_proxy": "ftp://me:secret@proxy:1"}, ["The proxy settings cannot be used (HTTPS_PROXY)", "http://HOST:PORT"]),
        ({"HTTPS_PROXY": "http://me:secret@proxy:x1"}, ["The proxy settings cannot be used (HTTPS_PROXY)"]),
        ({"NO_PROXY": "localhost,[::1]"}, ["The proxy settings cannot be used (NO_PROXY)", "::1 without brackets"]),
        ({"SSL_CERT_FILE": "/no/such.pem"}, ["The certificates cannot be read (SSL_CERT_FILE)", "No such file"]),
        ({"SSL_CERT_FILE": __file__}, ["The certificates cannot be read (SSL_CERT_FILE)", "PEM form"]),
    ],
)  # fmt: skip
def test_an_environment_that_cannot_be_used(checkout: Checkout, variables: dict[str, str], texts: list[str]) -> None:
    """Red before: a traceback each, one of them with the proxy's password."""
    unset: dict[str, str | None] = dict.fromkeys(
        ["ALL_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"]
    )
    done = checkout.run(
        "verify_clusters.py", env={**unset, "SUPABASE_URL": HOSTED, "SUPABASE_SERVICE_KEY": KEY, **variables}
    )
    said(done, *texts, code=2)
    assert "secret@" not in done.stdout + done.stderr


def test_a_proxy_that_cannot_be_reached_is_named(checkout: Checkout) -> None:
    """Its password is not. It looked as if the project were down."""
    with listen() as nobody:  # bound, and not listening
        proxy = f"http://me:secret@127.0.0.1:{nobody.getsockname()[1]}"
        env = {"SUPABASE_URL": HOSTED, "SUPABASE_SERVICE_KEY": KEY, "HTTPS_PROXY": proxy, "NO_PROXY": None}
        done = checkout.run("verify_clusters.py", "--patience", "1", env=env)
        said(done, "the connection failed, through the proxy of HTTPS_PROXY: ", code=1)
        looked = checkout.run("doctor.py", env=env)
        said(looked, f"{HOSTED} is not reachable, through the proxy of HTTPS_PROXY: ", code=1)
        assert "secret@" not in done.stdout + done.stderr + looked.stdout + looked.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_project_on_this_machine_is_reached_past_the_proxy(
    checkout: Checkout, shared: LocalSupabase, host: str
) -> None:
    """Which would read the key: it goes there unencrypted."""
    with listen() as nobody:  # bound, and not listening
        proxy = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        url = {"SUPABASE_URL": shared.url.replace("127.0.0.1", host)}
        done = checkout.run("doctor.py", env=shared.environment() | url | {"HTTP_PROXY": proxy, "ALL_PROXY": proxy})
    said(done, "17 passed, 0 failed")


def test_a_project_below_a_path_of_its_host(checkout: Checkout, shared: LocalSupabase) -> None:
    """Self-hosted, beside other things: where the path is cut off, the key goes to those."""

    def below(exchange: Exchange) -> None:
        path = exchange.request.path
        if not path.startswith("/supabase/"):
            return exchange.page(404)
        exchange.request = replace(exchange.request, path=path.removeprefix("/supabase"))
        return exchange.pass_on()

    with FaultProxy(shared.url, lambda _: below) as proxy:
        for url in (f"{proxy.url}/supabase", f"{proxy.url}/supabase/rest/v1/"):
            done = checkout.run("doctor.py", env=shared.environment() | {"SUPABASE_URL": url})
            said(done, f"Project: {proxy.url}/supabase,", "17 passed, 0 failed")


class Counting(BaseHTTPRequestHandler):
    """Counts what reaches it."""

    def do_POST(self) -> None:
        """Answer."""
        self.server.requests += 1  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def behind_its_own_certificate(folder: Path) -> Iterator[ThreadingHTTPServer]:
    """A server with a certificate that it has signed itself."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-out", certificate, "-keyout", key],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.requests = 0  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def test_a_certificate_that_is_not_trusted(checkout: Checkout, tmp_path: Path) -> None:
    """Told at once, with the way out of a network that looks into TLS; the key was not sent."""
    with behind_its_own_certificate(tmp_path) as server:
        url = f"https://localhost:{server.server_address[1]}"
        environment = {"SUPABASE_URL": url, "SUPABASE_SERVICE_KEY": KEY}
        done = checkout.run("migrate_clusters.py", env=environment)
        said(
            done, "The server's certificate is not trusted.", "set SSL_CERT_FILE", f"Written: {MIGRATION_FILE}", code=1
        )
        assert "trying again" not in done.stderr
        said(checkout.run("doctor.py", env=environment), "set SSL_CERT_FILE", code=1)
        assert server.requests == 0  # type: ignore[attr-defined]
        certificate = {"SSL_CERT_FILE": str(tmp_path / "certificate.pem")}
        done = checkout.run("migrate_clusters.py", env=environment | certificate)
        said(done, "answers, but not as Supabase does", code=1)
        assert server.requests == 1  # type: ignore[attr-defined]
