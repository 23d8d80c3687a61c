"""Settings: flag, else environment, else .env at the project's root, else default."""

from __future__ import annotations

import io
import ipaddress
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .errors import SettingsError
from .keys import ApiKey, check_key, read_access_token, read_key
from .places import PROJECT_ROOT, from_here

SERVICE_KEY_VARIABLES = ("SUPABASE_SERVICE_KEY", "SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY")
ANON_KEY_VARIABLES = ("SUPABASE_ANON_KEY", "SUPABASE_PUBLISHABLE_KEY")

_MANAGEMENT_URL = "https://api.supabase.com"
_MOST_LOCK_BUDGET = 30  # seconds, in which the application may stand still; a request ends after 50 s

# What people paste along with a project's URL: the path of one of its services, or of a page of the dashboard.
_BEHIND_THE_URL = re.compile(r"/+((rest|auth|storage|functions|realtime|graphql)/v1|pg|project|dashboard)(/.*)?$")

# A variable that is read here, in a line that cannot be read.
_OWN_NAME = re.compile(
    rf"\b({'|'.join((*SERVICE_KEY_VARIABLES, *ANON_KEY_VARIABLES))}|SUPABASE_URL|SUPABASE_ACCESS_TOKEN|MIGRATION_[A-Z_]+)\b"
)

# Other names for the URL (NEXT_PUBLIC_SUPABASE_URL; API_URL in what `supabase status -o env` writes), and for a key.
_OTHER_URL = re.compile(r"(?i).*SUPABASE_(PUBLIC_)?URL|API_URL")
_OTHER_KEY = re.compile(r"(?i).*SUPABASE_\w*KEY|SERVICE_ROLE_KEY")

# A connection string, or the host in it: that of the database itself, or of a pool in front of it.
_THE_DATABASE = re.compile(r"(?i)\bpostgres(ql)?://|\bdb\.[a-z0-9]{20}\.supabase\.|\.pooler\.supabase\.")


@dataclass(frozen=True)
class Settings:
    """All that a run needs to know about where it runs. `url` or `key` is None where no credentials are set."""

    url: str | None
    key: ApiKey | None
    project: str | None  # the ref in https://REF.supabase.co; with a custom domain, the one in the key
    access_token: ApiKey | None
    management_url: str
    patience: float  # seconds to go on trying: locks, another run, an unreachable server
    request_timeout: float  # seconds to wait for one answer
    lock_budget: int = 200  # milliseconds for all locks of an attempt to swap, and the replay under them
    pace: float = 1.0  # the share of the time in which a run works
    max_lag: float | None = None  # bytes that a replica or a replication slot may be behind while a run goes on
    ignore_snapshots: bool = False  # swap although older snapshots are open, which may miss rows
    yes: bool = False  # ask nothing
    unread: tuple[str, ...] = ()  # variables that frameworks and the CLI have for what is missing
    hidden: tuple[str, ...] = ()  # variables that are empty in the environment, and have a value in .env
    in_ci: bool = False  # nobody is watching: a file written for want of credentials would look like success
    retry_pause: float = 0.5  # seconds before the first retry; doubles from there

    @property
    def has_credentials(self) -> bool:
        """Whether there is a project and a key to try."""
        return self.url is not None and self.key is not None

    @property
    def are_credentials_meant(self) -> bool:
        """Whether missing credentials are a mistake: something else is set, or nobody is there to paste a file."""
        return self.in_ci or any(one is not None for one in (self.url, self.key, self.access_token))

    @property
    def is_local(self) -> bool:
        """Whether the project runs on this machine."""
        return self.url is not None and _is_local(_split_url(self.url)[1])

    @property
    def place(self) -> str:
        """The project, in words: its ref, or else its address."""
        return f"project {self.project}" if self.project else str(self.url)

    @property
    def sql_editor_url(self) -> str | None:
        """The URL of the project's SQL Editor; without any project, the dashboard asks which one. None if it is not known."""
        if self.url is not None and self.project is None:
            return None
        return f"https://supabase.com/dashboard/project/{self.project or '_'}/sql/new"

    def missing(self) -> str:
        """Which variables are not set, in words."""
        names = [
            *(["SUPABASE_URL"] if self.url is None else []),
            *(["SUPABASE_SERVICE_KEY (or SUPABASE_ANON_KEY)"] if self.key is None else []),
        ]
        unread = f" ({', '.join(self.unread)}: not read here)" if self.unread else ""
        hidden = f" ({', '.join(self.hidden)}: empty in the environment, which wins over .env)" if self.hidden else ""
        where = env_file()
        other = f" (not read here: .env; read: {where})" if where != ".env" and Path(".env").exists() else ""
        return " and ".join(names) + (" is not set" if len(names) == 1 else " are not set") + unread + hidden + other


def env_file() -> str:
    """The .env file that is read, as messages name it."""
    return from_here(PROJECT_ROOT / ".env")


def load_settings(
    *,
    allow_http: bool = False,
    patience: float | None = None,
    pace: float = 1.0,
    max_lag: float | None = None,
    ignore_snapshots: bool = False,
    yes: bool = False,
) -> Settings:
    """Read the settings. Raises SettingsError if one is wrong; one that is missing is None."""
    file = _read_env_file()
    environment = {name: value.strip() for name, value in (file | os.environ).items()}
    allow_http = allow_http or environment.get("MIGRATION_ALLOW_HTTP", "") == "1"
    url, project = _read_url(environment.get("SUPABASE_URL", ""), allow_http)
    key = _choose_key(environment, project)
    token = environment.get("SUPABASE_ACCESS_TOKEN")
    management_url = environment.get("MIGRATION_MANAGEMENT_URL") or _MANAGEMENT_URL
    return Settings(
        url=url,
        key=key,
        project=project or (key.project if key else None),
        access_token=read_access_token(token, "SUPABASE_ACCESS_TOKEN") if token else None,
        management_url=_base_url(management_url, "MIGRATION_MANAGEMENT_URL", allow_http),
        patience=patience if patience is not None else _seconds(environment, "MIGRATION_PATIENCE", 300.0),
        request_timeout=_seconds(environment, "MIGRATION_REQUEST_TIMEOUT", 75.0),
        lock_budget=math.ceil(_seconds(environment, "MIGRATION_LOCK_BUDGET", 0.2, most=_MOST_LOCK_BUDGET) * 1000),
        pace=pace,
        max_lag=max_lag,
        ignore_snapshots=ignore_snapshots,
        yes=yes or environment.get("MIGRATION_YES", "") == "1",
        unread=tuple(_unread(environment, url_is_missing=url is None, key_is_missing=key is None)),
        hidden=tuple(
            name
            for name in file
            if _OWN_NAME.fullmatch(name) and os.environ.get(name) is not None and not environment[name]
        ),
        in_ci=environment.get("CI", "").lower() not in ("", "0", "false"),
    )


def _read_env_file() -> dict[str, str]:
    """The .env file at the project's root, without its empty variables. One that is empty in the environment hides the one in the file."""
    path = PROJECT_ROOT / ".env"
    if not path.exists():  # may be a pipe: password managers make such
        return {}
    from dotenv.main import resolve_variables
    from dotenv.parser import parse_stream

    try:  # with or without a byte order mark
        text = path.read_text(encoding="utf-8-sig")
        if "\0" in text:
            raise ValueError("UTF-16")  # without a mark its letters, and a NUL behind each, are UTF-8 too
        lines = list(parse_stream(io.StringIO(text)))
        values = resolve_variables(((one.key, one.value) for one in lines if one.key is not None), override=True)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{env_file()} cannot be read.", hint="Save it as a text in UTF-8 that you may read."
        ) from error
    for one in lines:
        if one.error and _OWN_NAME.search(one.original.string):
            lines_before = len(one.original.string) - len(one.original.string.lstrip("\n"))
            raise SettingsError(
                f"{env_file()} cannot be read at line {one.original.line + lines_before}.",
                hint="Write NAME=value there, with quotation marks at both ends of the value or at none.",
            )
    return {name: value for name, value in values.items() if value}


def _unread(environment: Mapping[str, str], *, url_is_missing: bool, key_is_missing: bool) -> list[str]:
    """Variables that seem to hold what is missing, under names that are not read here."""
    return [
        name
        for name, value in environment.items()
        if value
        and ((url_is_missing and _OTHER_URL.fullmatch(name)) or (key_is_missing and _OTHER_KEY.fullmatch(name)))
    ]


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
    """The base URL, and the project's ref where the URL names one."""
    if not value:
        return None, None
    if dashboard := re.search(
        r"supabase\.(?:com|io)/(?:(?:dashboard/)?project/|v1/projects/|mcp\?project_ref=)([a-z0-9]+)", value
    ):
        raise SettingsError(
            "SUPABASE_URL is the address of the dashboard.", hint=f"Set SUPABASE_URL=https://{dashboard[1]}.supabase.co"
        )
    if re.match(r"\s*https?://((app|www|api|mcp)\.)?supabase\.(com|io)(/|$)", value):
        raise SettingsError(
            "SUPABASE_URL is the address of the dashboard.",
            hint="Set it to the project's URL, https://YOUR-PROJECT.supabase.co (Project Settings, Data API).",
        )
    if _THE_DATABASE.search(value):
        named = re.search(r"\b(?:db|postgres)\.([a-z0-9]{20})\b", value)
        raise SettingsError(
            "SUPABASE_URL is the address of the database.",
            hint=f"Set SUPABASE_URL=https://{named[1] if named else 'YOUR-PROJECT'}.supabase.co (Project Settings, Data API).",
        )
    if "your-project" in value.lower():
        raise SettingsError(
            "SUPABASE_URL still has the placeholder YOUR-PROJECT.",
            hint="Put the project's own URL there (Project Settings, Data API). Or empty it and the key: then the SQL is written to files "
            "for the SQL Editor.",
        )
    url = _base_url(value, "SUPABASE_URL", allow_http)
    hosted = re.match(r"(https?://([a-z0-9]{20})\.supabase\.(?:co|in|red))(?:/|$)", url)
    return (hosted[1], hosted[2]) if hosted else (url, None)


def _base_url(value: str, name: str, allow_http: bool) -> str:
    """A URL without what people paste along with it; a self-hosted project may have a path of its own. Raises SettingsError if it is
    not a URL, or would carry the key unencrypted.
    """
    scheme, host, port = _split_url(value.strip())
    other = None if name == "SUPABASE_URL" else f"Set it to an address such as {_MANAGEMENT_URL}, or leave it out."
    if scheme not in ("http", "https") or not host:
        bare = re.fullmatch(r"([a-z0-9]{20})(\.supabase\.co)?", value.strip().rstrip("/"))
        example = f"https://{bare[1]}.supabase.co" if bare else "https://YOUR-PROJECT.supabase.co"
        raise SettingsError(
            f"{name} is not a URL.", hint=other or f"Set {name}={example} (Project Settings, Data API)."
        )
    if "@" in value:
        raise SettingsError(
            f"{name} has a user name or password in it.",
            hint=other or "Set it to the project's URL alone; the key goes into SUPABASE_SERVICE_KEY.",
        )
    if scheme == "http" and not _is_local(host) and not allow_http:
        raise SettingsError(
            f"{name} is http:// to {host}: the key would travel unencrypted.",
            hint="Use https://. In a network that you trust, --allow-http or MIGRATION_ALLOW_HTTP=1 lets it through.",
        )
    path = _BEHIND_THE_URL.sub("", urlsplit(value.strip()).path).rstrip("/")
    return f"{scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}{path}"


def _split_url(value: str) -> tuple[str, str, int | None]:
    """Scheme, host and port; the host is empty if it is not a valid one."""
    try:
        parts = urlsplit(value)
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
        if ":" in host:
            ipaddress.ip_address(host)
    except ValueError:
        return "", "", None
    label = r"[a-z0-9_-]{1,63}"
    is_host = ":" in host or re.fullmatch(rf"({label}\.)*{label}\.?", host)
    return scheme, host if is_host and not re.search(r"[^!-~]", value) else "", port


def _is_local(host: str) -> bool:
    if host in ("localhost", "host.docker.internal") or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _seconds(environment: Mapping[str, str], name: str, default: float, *, most: float = 1e6) -> float:
    """A positive number of seconds from the environment, of `most` at most."""
    value = environment.get(name)
    if not value:
        return default
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= most:
        raise SettingsError(
            f"{name} is not a positive number of seconds{f' up to {most:g}' if most < 1e6 else ''}.",
            hint=f"Set it to a number, such as {default:g}, or leave it out.",
        )
    return seconds
