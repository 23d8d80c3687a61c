"""Settings: flag, else environment, else .env at the project's root, else default."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .errors import SettingsError
from .keys import ApiKey, check_key, read_key

PROJECT_ROOT = Path(__file__).resolve().parents[2]

SERVICE_KEY_VARIABLES = ("SUPABASE_SERVICE_KEY", "SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY")
ANON_KEY_VARIABLES = ("SUPABASE_ANON_KEY", "SUPABASE_PUBLISHABLE_KEY")


@dataclass(frozen=True)
class Settings:
    """All that a run needs to know about where it runs. `url` or `key` is None where no credentials are set."""

    url: str | None
    key: ApiKey | None
    project: str | None  # the ref in https://REF.supabase.co
    access_token: ApiKey | None
    management_url: str
    patience: float  # seconds to go on trying: locks, another run, an unreachable server
    request_timeout: float  # seconds to wait for one answer
    retry_pause: float = 0.5  # seconds before the first retry; doubles from there

    @property
    def has_credentials(self) -> bool:
        """Whether there is a project and a key to try."""
        return self.url is not None and self.key is not None

    @property
    def sql_editor_url(self) -> str:
        """Where the project's SQL Editor is."""
        return f"https://supabase.com/dashboard/project/{self.project or '_'}/sql/new"

    def missing(self) -> str:
        """Which variables are not set, in words."""
        names = [
            *(["SUPABASE_URL"] if self.url is None else []),
            *(["SUPABASE_SERVICE_KEY (or SUPABASE_ANON_KEY)"] if self.key is None else []),
        ]
        return " and ".join(names) + (" is not set" if len(names) == 1 else " are not set")


def load_settings(*, allow_http: bool = False, patience: float | None = None) -> Settings:
    """Read the settings. Raises SettingsError where one is wrong; what is merely missing is None."""
    environment = _environment()
    allow_http = allow_http or environment.get("MIGRATION_ALLOW_HTTP", "") == "1"
    url, project = _read_url(environment.get("SUPABASE_URL", ""), allow_http)
    token = environment.get("SUPABASE_ACCESS_TOKEN", "")
    return Settings(
        url=url,
        key=_choose_key(environment, project),
        project=project,
        access_token=ApiKey(token, "SUPABASE_ACCESS_TOKEN", None, "personal access token") if token else None,
        management_url=environment.get("MIGRATION_MANAGEMENT_URL", "") or "https://api.supabase.com",
        patience=patience if patience is not None else _seconds(environment, "MIGRATION_PATIENCE", 300.0),
        request_timeout=_seconds(environment, "MIGRATION_REQUEST_TIMEOUT", 75.0),
    )


def _environment() -> Mapping[str, str]:
    """The environment over the .env file at the project's root. Set but empty, a variable hides the one in the file."""
    env_file = PROJECT_ROOT / ".env"
    values: dict[str, str] = {}
    if env_file.is_file():
        from dotenv import dotenv_values

        values = {name: value for name, value in dotenv_values(env_file).items() if value}
    return values | os.environ


def _choose_key(environment: Mapping[str, str], project: str | None) -> ApiKey | None:
    """The service key, else the anon key, by the first name that is set."""
    for names, role in ((SERVICE_KEY_VARIABLES, "service_role"), (ANON_KEY_VARIABLES, "anon")):
        for name in names:
            if value := environment.get(name):
                key = read_key(value, name)
                check_key(key, expected_role=role, project=project)
                return key
    return None


def _read_url(value: str, allow_http: bool) -> tuple[str | None, str | None]:
    """The base URL without a path, and the project's ref where the URL names one."""
    if not value:
        return None, None
    try:
        parts = urlsplit(value.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if dashboard := re.search(r"supabase\.(?:com|io)/dashboard/project/([a-z0-9]+)", value):
        raise SettingsError(
            "SUPABASE_URL is the address of the dashboard.", hint=f"Set SUPABASE_URL=https://{dashboard[1]}.supabase.co"
        )
    if parts.scheme in ("postgres", "postgresql"):
        raise SettingsError(
            "SUPABASE_URL is a database connection string.",
            hint="Set it to the project's URL, https://YOUR-PROJECT.supabase.co",
        )
    if parts.scheme not in ("http", "https") or not host or re.search(r"[\s<>]", value.strip()):
        raise SettingsError(
            "SUPABASE_URL is not a URL.",
            hint="Set SUPABASE_URL=https://YOUR-PROJECT.supabase.co (Project Settings, Data API).",
        )
    if parts.username or parts.password:
        raise SettingsError(
            "SUPABASE_URL has a user name or password in it.",
            hint="Set it to the project's URL alone; the key goes into SUPABASE_SERVICE_KEY.",
        )
    if parts.scheme == "http" and not _is_local(host) and not allow_http:
        raise SettingsError(
            f"SUPABASE_URL is http:// to {host}: the key would travel unencrypted.",
            hint="Use https://. In a network that you trust, --allow-http or MIGRATION_ALLOW_HTTP=1 lets it through.",
        )
    project = re.fullmatch(r"([a-z0-9]{20})\.supabase\.(?:co|in|red)", host)
    return f"{parts.scheme}://{parts.netloc}", project[1] if project else None


def _is_local(host: str) -> bool:
    if host in ("localhost", "host.docker.internal") or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    """A positive number of seconds from the environment."""
    value = environment.get(name)
    if not value:
        return default
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e6:
        raise SettingsError(
            f"{name} is not a positive number of seconds.",
            hint=f"Set it to a number, such as {default:g}, or leave it out.",
        )
    return seconds
