"""Output streams that survive a full disk, a closed terminal or a reader that is gone: these must not stop a migration."""

from __future__ import annotations

import os
from typing import Any, TextIO, cast


def lasting(stream: TextIO, name: str) -> TextIO:
    """Wrap a stream; `name` is for messages."""
    return cast(TextIO, Lasting(stream, name))


class Lasting:
    """A text stream on which every write succeeds. After a failed one, all further output is dropped.

    `lost` then says why; it stays None if the reader just closed the pipe (`| head`).
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self.name = name
        self.lost: str | None = None

    def __getattr__(self, name: str) -> Any:
        """Everything else is the stream's own."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text; return its length."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._go_nowhere(error)
            return len(text)

    def flush(self) -> None:
        """Write out what is buffered."""
        try:
            self._stream.flush()
        except OSError as error:
            self._go_nowhere(error)

    def _go_nowhere(self, error: OSError) -> None:
        """Redirect the stream to /dev/null, with what it has buffered, which Python would write at exit."""
        if not isinstance(error, BrokenPipeError):
            self.lost = error.strerror or type(error).__name__
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
