"""The way to the database: `supabase.rpc("execute_sql", ...)`, with retries for transient faults.

supabase-py retries GET and HEAD only, and an RPC is a POST, so the retries are ours. What an answer means is read from the raw
response, because what supabase-py makes of it differs from release to release (up to 2.33 an error without a code becomes "JSON
could not be generated", and an answer with a "message" counts as an error). Sending twice is safe: a step is recognised in the
database (see db/rpc_migrations/02_step.sql), and everything else that is sent only reads, or may be repeated.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from postgrest.exceptions import APIError
from supabase import create_client
from supabase.lib.client_options import SyncClientOptions

from .errors import (
    AccessRefused,
    MigrationError,
    NotSupabase,
    SqlError,
    TransientError,
    Unreachable,
    altered,
    not_ours,
)
from .journal_words import count
from .network import CERTIFICATE_HINT, is_untrusted, open_http, through_proxy
from .patience import Attempts
from .rest_errors import CONFLICTS, TOKEN_CODES, ErrorAnswer, explain
from .settings import Settings
from .shapes import ANSWER, Maybe, expect, not_supabase

MAX_ATTEMPTS = 20
MAX_ATTEMPTS_BEFORE_FIRST_ANSWER = 4  # a wrong address does not get better, and nobody should wait minutes to hear so
MAX_ATTEMPTS_IN_CONFLICT = 5  # serialization failures and deadlocks pass at once, or come from the step itself
MAX_PAUSE = 15.0  # seconds

_HINT_IN_CONFLICT = (
    "Nothing of it remains. If the SQL raises this error itself, fix it there. If other transactions are in the way, run the same "
    "command again when there are fewer."
)
_HINT_WHEN_REFUSED = (
    "The database was too busy, restarting or short of something (connections, memory). See the project's status, then run the "
    "same command again: it goes on where this one stopped."
)

_HINT_WHEN_TOO_EARLY = "The REST layer's clock is behind that of whoever made the key. Run the same command again later; self-hosted, set the clocks."

OnRetry = Callable[[TransientError, float, int], None]


class RpcClient:
    """Sends SQL through execute_sql. `on_retry` is told the fault, the pause in seconds and the number of the attempt."""

    def __init__(self, settings: Settings, on_retry: OnRetry) -> None:
        assert settings.url is not None and settings.key is not None
        self._settings = settings
        self._on_retry = on_retry
        self._response: httpx.Response | None = None
        self._has_answered = False
        self.requests = 0
        self.last_request = self.longest_request = 0.0  # seconds that an attempt took
        self.http = open_http(settings, self._note_response)
        self._supabase = create_client(settings.url, settings.key.value, SyncClientOptions(httpx_client=self.http))

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def query(self, sql: str, *, patience: float | None = None) -> list[dict[str, Any]] | int:
        """Run a text that may be repeated; return its rows, or the number of rows affected. Raises as `call` does."""
        answer = self.call({"query": sql}, patience=patience)
        if not isinstance(answer, list | int) or isinstance(answer, bool):
            raise not_ours()
        return answer

    def rows(self, sql: str, shape: dict[str, Any], *, patience: float | None = None) -> list[dict[str, Any]]:
        """The rows of a query, each of which has the shape (see shapes.py); as `query`."""
        rows: list[dict[str, Any]] = expect(self.query(sql, patience=patience), [shape])
        return rows

    def row(self, sql: str, shape: dict[str, Any], *, patience: float | None = None) -> dict[str, Any]:
        """The first row of a query that answers one; as `rows`."""
        rows = self.rows(sql, shape, patience=patience)
        if not rows:
            raise not_supabase()
        return rows[0]

    def run_steps(self, arguments: dict[str, Any], attempts: Attempts) -> list[dict[str, Any]]:
        """Send a step, with those that follow it (see rpc_migrations.run_steps); return the answers, in order. Raises as `call` does.

        `attempts` counts the failed attempts at this step. Each answer has a "state", "call_seconds" (its share of the request; the
        way there and back counts for the first one), and "ended", when it was done on our monotonic clock.
        """
        answer = self.call(arguments, attempts=attempts)
        if not isinstance(answer, dict) or "state" not in answer:
            raise not_ours()
        expect(answer, ANSWER)
        answers = [answer, *(answer.pop("following", None) or [])]  # absent where the step was sent alone
        answer["call_seconds"] = self.last_request - sum(one["call_seconds"] for one in answers[1:])
        ended = time.monotonic()
        for one in reversed(answers):
            one["ended"] = ended
            ended -= one["call_seconds"]
        return answers

    def call(
        self, arguments: dict[str, Any], *, patience: float | None = None, attempts: Attempts | None = None
    ) -> Any:
        """Call execute_sql until it answers, for `patience` seconds (default: the setting); return the answer.

        `attempts` carries the failed attempts of earlier calls that brought no progress. Raises Unreachable when the attempts or
        the time are used up (SqlError if it is the database that refuses); AccessRefused, NotDeployed, SqlError or another
        MigrationError at once where waiting does not help.
        """
        attempts = attempts or Attempts(self._settings.patience if patience is None else patience)
        return self.insist(lambda: self._send(arguments), attempts)

    def insist(self, send: Callable[[], Any], attempts: Attempts, most: int = MAX_ATTEMPTS) -> Any:
        """Call `send` until it raises no TransientError, up to `most` times; return what it does. Raises as `call` does."""
        while True:
            try:
                return send()
            except TransientError as fault:
                attempts.failed(fault)
                pause = self._pause(attempts.number, fault)
                if not attempts.may_go_on(min(most, self._most_attempts(fault)), pause):
                    raise _give_up(fault, attempts) from fault
                self._on_retry(fault, pause, attempts.number)
                time.sleep(pause)

    def _most_attempts(self, fault: TransientError) -> int:
        """How many attempts are made at most after a fault of this kind."""
        if fault.code in CONFLICTS:
            return MAX_ATTEMPTS_IN_CONFLICT
        return MAX_ATTEMPTS if self._has_answered else MAX_ATTEMPTS_BEFORE_FIRST_ANSWER

    def _send(self, arguments: dict[str, Any]) -> Any:
        """One attempt. Raises TransientError or what the answer means."""
        self.requests += 1
        self._response = None
        began = time.monotonic()
        try:
            self._supabase.rpc("execute_sql", arguments).execute()
        except httpx.TimeoutException as error:
            raise TransientError(
                f"no answer within {self._settings.request_timeout:g} s ({type(error).__name__})"
            ) from error
        except httpx.HTTPError as error:
            raise self._not_connected(error) from error
        except (APIError, ValueError, RecursionError):  # an error answer, or JSON that its parser rejects
            if self._response is None:
                raise
        finally:
            self.last_request = time.monotonic() - began
            self.longest_request = max(self.longest_request, self.last_request)
        assert self._response is not None
        return self._read(self._response)

    def _read(self, response: httpx.Response) -> Any:
        """What execute_sql answered. Raises TransientError or what the answer means."""
        if not response.is_success:
            raise self._explain(response)
        if response.status_code == httpx.codes.NO_CONTENT:
            raise not_ours()  # a function that returns void
        try:
            answer = response.json()
        except (ValueError, RecursionError) as error:
            raise self._not_ours() from error
        if isinstance(answer, str) and "json" not in response.headers.get("Content-Type", ""):
            raise self._not_ours()  # a JSON string would be somebody else's execute_sql
        self._has_answered = True
        if answer is None:
            raise altered("it answers nothing (`strict`)")
        if isinstance(answer, dict) and answer.get("state") == "conflict":
            expect(answer, {"code": str, "message": str, "details": Maybe(str)})
            raise TransientError(
                f"{answer['code']}, {answer['message']}", code=answer["code"], details=answer.get("details")
            )
        return answer

    def _pause(self, attempt: int, fault: TransientError) -> float:
        """Seconds to wait before the next attempt: what the server asks for, else exponential, with jitter, capped."""
        if fault.retry_after is not None and fault.retry_after > 0:
            return fault.retry_after
        longest = min(MAX_PAUSE, self._settings.retry_pause * 2.0 ** (attempt - 1))
        return longest * random.uniform(0.5, 1.0)

    def _explain(self, response: httpx.Response) -> MigrationError:
        """What an error answer means."""
        error = ErrorAnswer.read(response)
        if error.code.startswith("PGRST") and error.code not in TOKEN_CODES:
            self._has_answered = True  # a REST layer without its database, for one: the address is right
        if response.has_redirect_location and self._has_answered:
            return TransientError(f"HTTP {error.code}, {error.message}", code=error.code)
        return explain(error, _seconds_to_wait(response.headers.get("Retry-After")))

    def _not_connected(self, error: httpx.HTTPError) -> MigrationError:
        """The error for a failed connection. An untrusted certificate is final, unless the server was trusted before."""
        if is_untrusted(error) and not self._has_answered:
            return NotSupabase("The server's certificate is not trusted.", details=str(error), hint=CERTIFICATE_HINT)
        return TransientError(f"the connection failed{through_proxy(self._settings)}: {error or type(error).__name__}")

    def _not_ours(self) -> MigrationError:
        """The error for an answer that is not Supabase's: a wrong address, or for a while a login page in between."""
        if self._has_answered:
            return TransientError("an answer that is not Supabase's")
        return not_supabase()

    def _note_response(self, response: httpx.Response) -> None:
        """Keep the raw response."""
        self._response = response


def _give_up(fault: TransientError, attempts: Attempts) -> MigrationError:
    """The error for when retrying has not helped: nobody answers, or the database keeps refusing."""
    if refusal := attempts.refusal:
        return SqlError(
            f"Refused {attempts.number} times. The last time: {refusal.message}",
            code=refusal.code,
            details=refusal.details,
            hint=_HINT_IN_CONFLICT if refusal.code in CONFLICTS else _HINT_WHEN_REFUSED,
        )
    if fault.code in TOKEN_CODES:
        return AccessRefused(
            f"Refused {attempts.number} times. The last time: {fault.message}",
            code=fault.code,
            hint=_HINT_WHEN_TOO_EARLY,
        )
    asked = f"; it asks to wait for {fault.retry_after:,.0f} s" if (fault.retry_after or 0) > MAX_PAUSE else ""
    return Unreachable(
        f"No answer after {count(attempts.number, 'attempt')}. The last one: {fault.message}{asked}",
        code=fault.code,
        hint="Check SUPABASE_URL, the network and the project's status, then run the same command again: it goes on where this one "
        "stopped.",
    )


def _seconds_to_wait(retry_after: str | None) -> float | None:
    """What a Retry-After header asks for: a number of seconds, or a date (RFC 9110, section 10.2.3)."""
    if not retry_after:
        return None
    try:
        return float(retry_after)
    except ValueError:
        pass
    try:
        return (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return None
