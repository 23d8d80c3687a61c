"""Streams that outlast what they write to: a full disk, a terminal or a reader that has gone must not stop a migration."""

from __future__ import annotations

import os
from typing import Any, TextIO, cast


def lasting(stream: TextIO, name: str) -> TextIO:
    """A stream made lasting; `name` is what the person calls it."""
    return cast(TextIO, Lasting(stream, name))


class Lasting:
    """A text stream on which every write succeeds. Once one has failed, what is left to say goes nowhere.

    `lost` is then why; but None where the reader has had enough (`| head`).
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self.name = name
        self.lost: str | None = None

    def __getattr__(self, name: str) -> Any:
        """Else it is the stream itself."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text; return its length."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._go_nowhere(error)
            return len(text)

    def flush(self) -> None:
        """Write what is kept back."""
        try:
            self._stream.flush()
        except OSError as error:
            self._go_nowhere(error)

    def _go_nowhere(self, error: OSError) -> None:
        """Also with what the stream keeps back: Python writes that when it ends."""
        if not isinstance(error, BrokenPipeError):
            self.lost = error.strerror or type(error).__name__
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
