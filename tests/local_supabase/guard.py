"""Leaves nothing behind, however the process that started something ends, kill -9 included."""

from __future__ import annotations

import subprocess
from pathlib import Path

# Reads until the pipe's other end closes, which the kernel does when the owner ends. The process ids are in a
# file, because a server may be started and stopped many times. Quit, because PostgreSQL then stops at once.
_SCRIPT = """
trap '' INT TERM HUP
while read -r _; do :; done
for signal in QUIT KILL; do
    for pid in $(cat "$1/pids" 2>/dev/null); do kill -s $signal "$pid" 2>/dev/null; done
    tries=0
    while [ $tries -lt 50 ]; do
        alive=
        for pid in $(cat "$1/pids" 2>/dev/null); do kill -0 "$pid" 2>/dev/null && alive=1; done
        [ -n "$alive" ] || break
        tries=$((tries + 1)); sleep 0.1
    done
done
rm -rf "$@"
"""


class Guard:
    """A shell that ends the noted processes and removes its directories, once its owner ends or says so.

    Unlike PR_SET_PDEATHSIG, it does not depend on the thread that started the processes.
    """

    def __init__(self, directory: Path, *further: Path) -> None:
        self._pids: set[int] = set()
        self._file = directory / "pids"
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "guard", directory, *further],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def watch(self, pid: int) -> None:
        """Note a process that must not outlive us."""
        self._pids.add(pid)
        self._write()

    def forget(self, pid: int) -> None:
        """The process has ended; its number may belong to another one from now on."""
        self._pids.discard(pid)
        self._write()

    def release(self) -> None:
        """End what is left, remove the directories, and wait until that is done."""
        if self._shell.stdin is not None and not self._shell.stdin.closed:
            self._shell.stdin.close()
        self._shell.wait()

    def _write(self) -> None:
        self._file.write_text("".join(f"{pid}\n" for pid in sorted(self._pids)))
