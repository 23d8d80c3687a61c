"""Scripts run on a real terminal, by a person who reads and types."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import pexpect
import pyte
from checkout import Checkout
from conftest import script_environment

ANSWERED = {"MIGRATION_YES": "1"}  # where no question is to be asked


class Person:
    """A script on a terminal of so many columns: `sees` waits for a text, `types` answers, `leaves` reads to its end."""

    def __init__(
        self, checkout: Checkout, env: Mapping[str, str | None], *arguments: str, columns: int = 80, lines: int = 40
    ) -> None:
        self._screen = pyte.HistoryScreen(columns, lines, history=1000)
        self._stream = pyte.ByteStream(self._screen)
        self._columns = columns
        self._child = pexpect.spawn(
            sys.executable,
            [str(checkout.root / "scripts" / arguments[0]), *arguments[1:]],
            env=script_environment({"TERM": "xterm-256color", **env}),  # type: ignore[arg-type]
            dimensions=(lines, columns),
            timeout=60,
            cwd=str(checkout.root),
        )

    def sees(self, text: str) -> None:
        """Wait for a text."""
        self._child.expect_exact(text)
        self._stream.feed(self._child.before + self._child.after)

    def types(self, line: str) -> None:
        """Type a line, and press Enter."""
        self._child.sendline(line)

    def presses(self, key: str) -> None:
        """Press Ctrl and a key."""
        self._child.sendcontrol(key)

    def leaves(self) -> tuple[int | None, str]:
        """Read until it ends; return the exit code, and all that stands on the terminal or was scrolled out of it."""
        self._child.expect(pexpect.EOF)
        self._stream.feed(self._child.before)
        self._child.close()
        above = ["".join(line[place].data for place in range(self._columns)) for line in self._screen.history.top]
        return self._child.exitstatus, "\n".join(line.rstrip() for line in [*above, *self._screen.display])


def screen(
    checkout: Checkout, env: Mapping[str, str | None], *arguments: str, columns: int = 80, lines: int = 40
) -> str:
    """What stands on a terminal at the end of a command that asks nothing."""
    return Person(checkout, {**env, **ANSWERED}, *arguments, columns=columns, lines=lines).leaves()[1]
