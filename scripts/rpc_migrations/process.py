"""A command as a process: parses its options, turns signals into an orderly stop, and errors into a message and an exit code."""

from __future__ import annotations

import argparse
import io
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from .console import Console
from .console.lasting import lasting
from .errors import MigrationError, StoppedByUser
from .options import check_text, check_together
from .settings import Settings, load_settings

Command = Callable[[argparse.Namespace, Settings, Console], int]


def run(parser: argparse.ArgumentParser, command: Command) -> int:
    """Parse the options, run the command, and turn what stops it into a message and an exit code."""
    check_text(parser, sys.argv[1:])
    options = parser.parse_args()
    check_together(parser, options)
    _stop_on_signals()
    console = _open_console(parser, options)
    if not options.remove_when_done:
        console.next_steps = options.next_steps
    try:
        settings = load_settings(
            allow_http=options.allow_http,
            patience=options.patience,
            pace=options.pace,
            max_lag=options.max_lag,
            ignore_snapshots=options.ignore_snapshots,
            yes=options.yes,
        )
        exit_code = command(options, settings, console)
    except MigrationError as error:
        console.error(error)
        exit_code = error.exit_code
    except KeyboardInterrupt:
        stopped = StoppedByUser("Interrupted. Nothing is half done.", hint="Run the same command again.")
        console.error(stopped)
        exit_code = stopped.exit_code
    console.finish(exit_code)
    return exit_code


def _open_console(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Console:
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an ASCII terminal shows a question mark for what it lacks
    if sys.stdout is not None:
        sys.stdout = lasting(sys.stdout, "Standard output")
    if sys.stderr is not None:
        sys.stderr = lasting(sys.stderr, "Standard error")
    log: TextIO | None = None
    if options.log:
        try:
            log = lasting(options.log.open("a", encoding="utf-8", buffering=1), str(options.log))
        except OSError as error:
            parser.error(f"--log: {options.log} cannot be written: {error.strerror}")
    name = Path(sys.argv[0]).name
    return Console(name, as_json=options.json, quiet=options.quiet, verbose=options.verbose, log=log)


def _stop_on_signals() -> None:
    """Treat SIGTERM, and SIGHUP of a closed terminal (not on Windows), as Ctrl-C. A signal that nohup ignores stays ignored."""
    for number in (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")):
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _interrupt)


def _interrupt(signal_number: int, frame: object) -> None:
    signal.signal(signal_number, signal.SIG_IGN)  # a second one would interrupt the clean-up after the first
    raise KeyboardInterrupt
