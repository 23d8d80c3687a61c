"""How long to keep trying: pauses while something is in the way, rests for the database, attempts after transient faults."""

from __future__ import annotations

import time
from dataclasses import dataclass

from .errors import Blocked, TransientError

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 3.0  # seconds
_LONGEST_REST = 30.0  # seconds; a run that is silent for a minute counts as gone (see journal.RUN_PATIENCE)


@dataclass
class Wait:
    """Growing, capped pauses, up to `patience` seconds in all without progress."""

    patience: float
    _since: float | None = None  # on the monotonic clock
    _pause: float = _FIRST_PAUSE

    @property
    def seconds(self) -> float:
        """How long we have been waiting."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    def pause(
        self, why_not: str, remedy: str = "End what is in the way, or wait for it; then", *, at_once: bool = False
    ) -> None:
        """Wait for a moment, unless `at_once`. Raises Blocked, with `why_not` and `remedy`, when the patience is used up."""
        if self._since is None:
            self._since = time.monotonic()
        pause = 0.0 if at_once else self._pause
        if self.seconds + pause > self.patience:
            raise Blocked(
                why_not,
                hint=f"Gave up after {self.seconds:.0f} s; nothing is half done. {remedy} run the same command again "
                "(--patience SECONDS waits longer).",
            )
        if at_once:
            self._pause = _FIRST_PAUSE  # what is waited for next is new
            return
        time.sleep(pause)
        self._pause = min(self._pause * 1.5, _LONGEST_PAUSE)

    def over(self) -> None:
        """There was progress: begin anew."""
        self._since, self._pause = None, _FIRST_PAUSE


def rest_after(worked: float, share: float) -> float:
    """Seconds to pause after a request that took `worked` seconds, if a run is to work for this share of the time. The rest of the
    time, processor and disk are the application's.
    """
    return min(worked * (1 / share - 1), _LONGEST_REST)


@dataclass
class Attempts:
    """The failed attempts at something: how many, since when, and what the database last said.

    Kept across requests that brought no progress, such as an answer "busy" while an earlier attempt is still at work.
    """

    patience: float  # seconds from the first failure on
    number: int = 0
    refusal: TransientError | None = None  # the last failure that has an SQLSTATE
    _since: float | None = None  # on the monotonic clock

    def failed(self, fault: TransientError) -> None:
        """Count one. A fault of the network is given what the database said before."""
        self.number += 1
        self._since = self._since or time.monotonic()
        if fault.has_sqlstate:
            self.refusal = fault
        elif self.refusal is not None:
            fault.message += f"; before that {self.refusal.message}"

    def may_go_on(self, most: int, pause: float) -> bool:
        """Whether another attempt is in order after `pause` seconds."""
        assert self._since is not None
        return self.number < most and time.monotonic() + pause <= self._since + self.patience

    def succeeded(self) -> None:
        """There was progress: begin anew."""
        self.number, self.refusal, self._since = 0, None, None
