"""Keeps control characters from the terminal: much of the output comes from elsewhere (a server's messages, names in files)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING

from rich.console import Console
from rich.segment import Segment

if TYPE_CHECKING:
    from rich.console import ConsoleOptions, RenderableType

# All control characters but tab and line feed, and those that change the direction of writing: with them a text could clear the
# screen, write to the clipboard, or pass for another text.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Terminal(Console):
    """A console of rich that lets no control character through but its own. Lines break at words on a terminal, and nowhere elsewhere."""

    def __init__(self, *, quiet: bool = False, stderr: bool = False, file: IO[str] | None = None) -> None:
        super().__init__(highlight=False, quiet=quiet, stderr=stderr, file=file)
        if not self.width:  # COLUMNS=0, as where no terminal was found: rich would print nothing at all
            self.width = 80
        self.soft_wrap = not self._is_watched

    @property
    def can_redraw(self) -> bool:
        """Whether what stands there can be drawn anew in its place. Not where TERM=dumb, as in an editor or for a screen reader."""
        return self._is_watched and not self.is_dumb_terminal

    @property
    def _is_watched(self) -> bool:
        """Whether it is a terminal. Rich's own `is_terminal` is true of a log as well where FORCE_COLOR is set, as CI often has it."""
        try:
            return self.is_terminal and self.file.isatty()
        except ValueError:  # somebody has closed it
            return False

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments that rich prints, without control characters, except for rich's own commands."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_CONTROLS.sub("", segment.text), segment.style)


def escaped(json_text: str) -> str:
    """A JSON document with control characters as escapes; they can only be in strings."""
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", json_text)
