"""API keys of a project: legacy JWTs and the newer opaque ones."""

from __future__ import annotations

import secrets
import string
import time
from dataclasses import dataclass, field
from typing import Any

import jwt

# Supabase makes its legacy keys valid for ten years.
_TEN_YEARS = 10 * 365 * 24 * 3600


def _random(length: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


@dataclass
class Keys:
    """All keys of one project. `ref` is the project's reference: twenty lower-case letters on a hosted
    project.
    """

    ref: str = field(default_factory=lambda: _random(20, string.ascii_lowercase))
    secret: str = field(default_factory=lambda: _random(40))
    secret_key: str = field(default_factory=lambda: f"sb_secret_{_random(22)}_{_random(8)}")
    publishable_key: str = field(default_factory=lambda: f"sb_publishable_{_random(22)}_{_random(8)}")
    access_token: str = field(default_factory=lambda: f"sbp_{_random(40, string.hexdigits.lower()[:16])}")
    expires_at: int = field(
        default_factory=lambda: int(time.time()) + _TEN_YEARS
    )  # of the legacy keys, which so stay the same

    def make_key(
        self,
        role: str,
        ref: str | None = None,
        exp: int | None = None,
        secret: str | None = None,
        **claims: Any,
    ) -> str:
        """A JWT for a role.

        `exp` is in seconds since 1970 (default: in ten years); `ref` names another project, `secret` signs
        with another secret, `claims` are added to the payload.
        """
        now = int(time.time())
        payload = {
            "iss": "supabase",
            "ref": ref or self.ref,
            "role": role,
            "iat": now,
            "exp": exp or now + _TEN_YEARS,
        }
        return jwt.encode({**payload, **claims}, secret or self.secret, algorithm="HS256")

    @property
    def anon_key(self) -> str:
        """The legacy key for anonymous use."""
        return self.make_key("anon", iat=0, exp=self.expires_at)

    @property
    def service_key(self) -> str:
        """The legacy service_role key."""
        return self.make_key("service_role", iat=0, exp=self.expires_at)

    def authenticated_key(self, user_id: str) -> str:
        """The token of a signed-in user, for the Authorization header."""
        return self.make_key("authenticated", sub=str(user_id), aud="authenticated")
