"""What can stop a run. Each error is worded for the person who has to do something about it."""

from __future__ import annotations

import re

from .places import DEPLOY_COMMAND


class MigrationError(Exception):
    """A run cannot go on. `hint` is the next step for the person, `code` an SQLSTATE, PostgREST code or HTTP status."""

    exit_code = 1
    outcome = "failed"  # as the report of --json has it
    title = "Error: "  # what the message begins with

    def __init__(
        self, message: str, *, hint: str | None = None, details: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details
        self.code = code

    @property
    def in_a_line(self) -> str:
        """The message and the next step, in one line."""
        return f"{self.message.removesuffix('.')}. {self.hint or ''}".strip()

    def to_dict(self) -> dict[str, str | None]:
        """The error for the report of --json."""
        return {"message": self.message, "code": self.code, "details": self.details, "hint": self.hint}


class SettingsError(MigrationError):
    """A setting or an argument is missing or wrong; nothing was sent."""

    exit_code = 2


class CredentialsMissing(SettingsError):
    """There is no URL or no key although both seem to be intended; nothing was sent."""


class StepFileError(MigrationError):
    """A migration file cannot be read, or cannot run as it is."""

    exit_code = 2


class SqlError(MigrationError):
    """The database refused some SQL; what it did was rolled back."""


class StatementTimedOut(SqlError):
    """A timeout cut the statement (57014); what it did was rolled back."""


class NothingToDo(SqlError):
    """A step says that the migration has been done before (RM000)."""


class AccessRefused(MigrationError):
    """The key was refused, or may not do this."""


class NotDeployed(MigrationError):
    """There is no execute_sql that we can use: it is absent, incomplete, of another version, or not ours."""


class Absent(NotDeployed):
    """The REST layer knows no function of that name; or only the bootstrap is there."""


class Closed(NotDeployed):
    """execute_sql is there, but the time for which it was opened is over (RM007)."""


class NotOurs(NotDeployed):
    """There is an execute_sql that this project did not make."""


def not_ours(*, code: str | None = None, details: str | None = None) -> NotOurs:
    """What to say of an execute_sql that this project did not make. `code`: PostgREST's, where the call did not get as far as the function."""
    return NotOurs(
        "There is a function execute_sql that this project did not make.",
        code=code,
        details=details,
        hint=f"See who uses it. If nobody does, run in the SQL Editor: drop function public.execute_sql; then: {DEPLOY_COMMAND}",
    )


def altered(how: str) -> NotDeployed:
    """What to say where somebody has altered execute_sql itself, as loops over all functions do. If it is not ours, the deployment says so."""
    return NotDeployed(f"execute_sql was altered since it was deployed: {how}.", hint=f"Run: {DEPLOY_COMMAND}")


class NoWayIn(MigrationError):
    """No way to deploy execute_sql over HTTPS is open. `by_hand` is the SQL that opens one, when run in the SQL Editor."""

    def __init__(self, message: str, *, by_hand: str) -> None:
        super().__init__(message)
        self.by_hand = by_hand


class NotSupabase(MigrationError):
    """Something else answers at the address in SUPABASE_URL."""


class TransientError(MigrationError):
    """An attempt failed in a way that the next one may not. `retry_after`: seconds that the server asked us to wait."""

    def __init__(
        self, message: str, *, retry_after: float | None = None, details: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message, details=details, code=code)
        self.retry_after = retry_after

    @property
    def has_sqlstate(self) -> bool:
        """Whether the database refused, rather than the network or the gateway."""
        return self.code is not None and re.fullmatch(r"\d[0-9A-Z]{4}", self.code) is not None


class Unreachable(MigrationError):
    """Every attempt failed with a transient fault, until the attempts or the time were used up."""


class Blocked(MigrationError):
    """A lock, or another run of the same migration, was in the way for longer than we may wait."""


class StoppedByUser(MigrationError):
    """Ctrl-C, SIGTERM, or a terminal that was closed (SIGHUP)."""

    exit_code = 130
    outcome = "interrupted"
    title = ""


class Declined(MigrationError):
    """The person was asked, and did not say yes; nothing was changed."""

    outcome = "declined"
    title = ""
