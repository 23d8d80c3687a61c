"""The HTTP client, and what the environment says of proxies and certificates.

httpx reads those by itself (https://www.python-httpx.org/environment_variables/), and fails in many ways where it cannot use them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

import httpx

from .errors import SettingsError
from .places import PYTHON
from .settings import Settings

_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
# A proxy or a firewall that inspects what is sent has a certificate of its own.
CERTIFICATE_HINT = (
    "If a proxy or a firewall inspects TLS, set SSL_CERT_FILE to a file with its certificate. If not, check SUPABASE_URL: "
    "the key was not sent."
)


def open_http(settings: Settings, on_response: Callable[[httpx.Response], None]) -> httpx.Client:
    """A client that tells of each response before its body is read. Raises SettingsError where the environment's proxies or
    certificates cannot be used.
    """
    try:
        return httpx.Client(
            timeout=httpx.Timeout(settings.request_timeout, connect=min(10.0, settings.request_timeout)),
            follow_redirects=False,  # they could carry the key to another host
            event_hooks={"response": [on_response]},
            mounts=_past_proxies(settings),
        )
    except ImportError as error:
        raise SettingsError(
            f"A SOCKS proxy is set{_by(_PROXIES)}, and the Python package for those is not installed.",
            hint=f"Run: {PYTHON} -m pip install 'httpx[socks]'; or run the command without that proxy.",
        ) from error
    except (ValueError, httpx.InvalidURL) as error:  # whose text may have a proxy's password in it
        raise SettingsError(
            f"The proxy settings cannot be used{_by(_PROXIES)}.",
            hint="A proxy is http://HOST:PORT; NO_PROXY is a list of names and addresses separated by commas, with ::1 without brackets.",
        ) from error
    except OSError as error:
        raise SettingsError(
            f"The certificates cannot be read{_by(_CERTIFICATES)}: {error.strerror or error}.",
            hint="Set SSL_CERT_FILE to a file of certificates in PEM form, or leave it out.",
        ) from error


def is_untrusted(error: httpx.HTTPError) -> bool:
    """Whether the connection was broken off because of the server's certificate."""
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def through_proxy(settings: Settings) -> str:
    """Which variable's proxy the project is reached through, in words: it may be the proxy that cannot be reached. Else empty."""
    parts = urlsplit(settings.url or "")
    if settings.is_local or proxy_bypass(parts.hostname or ""):
        return ""
    given = _given((f"{parts.scheme.upper()}_PROXY", "ALL_PROXY"))
    return f", through the proxy of {given[0]}" if given else ""


def _past_proxies(settings: Settings) -> dict[str, httpx.BaseTransport | None]:
    """A project on this machine is reached without a proxy, which would get to read its key."""
    host = urlsplit(settings.url or "").hostname or ""
    return {f"all://[{host}]" if ":" in host else f"all://{host}": None} if settings.is_local else {}


def _by(names: tuple[str, ...]) -> str:
    """Which of these variables are set, in words; on macOS and Windows it may be the system's settings instead."""
    given = _given(names)
    return f" ({', '.join(given)})" if given else ""


def _given(names: tuple[str, ...]) -> list[str]:
    """Which of these variables are set."""
    return [name for name in names if os.environ.get(name) or os.environ.get(name.lower())]
