"""What can be read off an API key. Nothing here verifies a key; it catches mistakes before the key is sent anywhere."""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from dataclasses import dataclass, field

from .errors import SettingsError


@dataclass(frozen=True)
class ApiKey:
    """An API key with what can be read off it. Its value is never shown, not even by repr()."""

    value: str = field(repr=False)
    variable: str  # the environment variable it came from
    role: str | None  # service_role, anon, or another role of a JWT; None if the key does not say
    form: str  # "legacy JWT", "secret key", "publishable key", "unknown form"
    project: str | None = None  # the project's ref, where a JWT names it
    expires_at: float | None = None  # seconds since 1970

    @property
    def bearer(self) -> dict[str, str]:
        """The header that carries it as a token."""
        return {"Authorization": f"Bearer {self.value}"}

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a request to the project's API."""
        return {"apikey": self.value, **self.bearer}

    def describe(self) -> str:
        """The key in words for the output: its role, form and project, never its value."""
        role = {"service_role": "service key", "anon": "anon key"}.get(
            self.role or "", f"key for role {self.role}" if self.role else "key"
        )
        project = f", project {self.project}" if self.project else ""
        return f"{role} ({self.form}{project}, from {self.variable})"


def read_key(value: str, variable: str) -> ApiKey:
    """Read what a key says. Raises SettingsError for white space or characters that no key has."""
    check_characters(value, variable)
    if value.startswith("sb_secret_"):
        return ApiKey(value, variable, "service_role", "secret key")
    if value.startswith("sb_publishable_"):
        return ApiKey(value, variable, "anon", "publishable key")
    if value.startswith("sbp_"):
        raise SettingsError(
            f"{variable} holds a personal access token, not an API key.",
            hint="Put it into SUPABASE_ACCESS_TOKEN, and the project's key (Project Settings, API Keys) here.",
        )
    payload = _jwt_payload(value)
    if payload is None:
        return ApiKey(value, variable, None, "unknown form")
    return ApiKey(
        value,
        variable,
        role=_text(payload.get("role")),
        form="legacy JWT",
        project=_text(payload.get("ref")),
        expires_at=_time(payload.get("exp")),
    )


def read_access_token(value: str, variable: str) -> ApiKey:
    """A personal access token. Raises SettingsError if it is not one."""
    check_characters(value, variable)
    if not value.startswith("sbp_"):
        raise SettingsError(
            f"{variable} is not a personal access token (sbp_...).",
            hint="Make one at https://supabase.com/dashboard/account/tokens, or leave it out.",
        )
    return ApiKey(value, variable, None, "personal access token")


def check_characters(value: str, variable: str) -> None:
    """Raise SettingsError for white space, quotation marks and other characters that no key has."""
    if any(character.isspace() for character in value):
        raise SettingsError(
            f"{variable} has white space in it.",
            hint=f"Copy the key again, in one piece and without line breaks, into {variable}.",
        )
    if not re.fullmatch(r"[\w.~+/=-]+", value, re.ASCII):
        raise SettingsError(
            f"{variable} has characters that no key has.",
            hint=f"Copy the key again into {variable}, without quotation marks or brackets.",
        )


def check_key(key: ApiKey, *, expected_role: str, project: str | None) -> None:
    """Raise SettingsError for a key that cannot work: of another kind than its variable is for, expired, of another project.

    `project` is the ref in the URL, None if the URL has none.
    """
    if key.role is not None and key.role != expected_role:
        kind = {"anon": "an anon (publishable) key", "service_role": "a service (secret) key"}.get(
            key.role, f"a key for role {key.role}"
        )
        hint = "Copy the right one there: Project Settings, API Keys, in the Supabase dashboard."
        if key.role == "service_role":
            hint = "Put it into SUPABASE_SERVICE_KEY instead. If it was ever given to a browser, replace it."
        raise SettingsError(f"{key.variable} holds {kind}.", hint=hint)
    if key.expires_at is not None and key.expires_at < time.time():
        day = time.strftime("%Y-%m-%d", time.gmtime(key.expires_at))
        raise SettingsError(
            f"The key in {key.variable} expired on {day}.", hint="Copy the current one from Project Settings, API Keys."
        )
    if key.project and project and key.project != project:
        raise SettingsError(
            f"The key in {key.variable} is for project {key.project}, but SUPABASE_URL is project {project}.",
            hint="Take both from the same project.",
        )


def _jwt_payload(value: str) -> dict[str, object] | None:
    """The payload of a JWT, unverified; None if the value is not a JWT."""
    parts = value.split(".")
    if len(parts) != 3:
        return None
    try:
        payload = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    return payload if isinstance(payload, dict) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _time(value: object) -> float | None:
    """A time in seconds since 1970; None if the value is not one."""
    is_time = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e11
    return float(value) if is_time else None  # type: ignore[arg-type]
