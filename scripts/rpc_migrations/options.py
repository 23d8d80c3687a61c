"""Command-line options: those of every command, those that several commands share, and the values they take."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

from .deployment import current_version
from .file_names import is_text

# Commands that lack one of these options see it with this value.
NOT_GIVEN: dict[str, Any] = {
    "rollback": False, "finish": False, "discard_changes": False, "give_up": False, "write_sql": False, "online": False, "until": None,
    "stop_before_swap": False, "record": False, "accept_edits": False, "remove_when_done": False, "yes": False, "pace": 1.0, "max_lag": None,
    "ignore_snapshots": False, "next_steps": [],
}  # fmt: skip

DONE = "done, nothing to do, or written as a SQL file for want of credentials"
EXIT_CODES = """\
exit codes:
  0    {success}
  1    {failure}
  2    wrong usage or settings, or a file that cannot run as it is
  130  interrupted
"""


class _ShowVersion(argparse.Action):
    """Prints which version of execute_sql these scripts deploy, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"{parser.prog}: {current_version()}")
        parser.exit()


def command_parser(
    description: str,
    examples: list[str],
    *,
    takes: str = "",
    success: str = DONE,
    failure: str = "it could not be done",
) -> argparse.ArgumentParser:
    """A parser with the options that every command has. `takes`: what it has besides them; `success`, `failure`: what its exit
    codes 0 and 1 mean.
    """
    listed = "\n".join(f"  {example}" for example in examples)
    width = min(max(shutil.get_terminal_size().columns, 40), 100) - 2
    parser = argparse.ArgumentParser(
        usage=f"%(prog)s [options] {takes}".rstrip(),
        description=textwrap.fill(description, width),
        epilog=f"examples:\n{listed}\n\n{EXIT_CODES.format(success=success, failure=failure)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # --fi would be --finish
    )
    parser.set_defaults(**NOT_GIVEN)
    parser.add_argument(
        "--version", action=_ShowVersion, nargs=0, help="print the version that these scripts deploy, and exit"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="write one JSON document to standard output, and nothing else",
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="append everything to a file, with the time")
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("--quiet", action="store_true", help="show only warnings and errors")
    volume.add_argument("--verbose", action="store_true", help="show more")
    parser.add_argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        help="how long to keep trying to get a lock or an answer (default: 300)",
    )
    parser.add_argument(
        "--allow-http", action="store_true", help="allow http:// to another host, although the key travels unencrypted"
    )
    return parser


def path(text: str) -> Path:
    """A path. An empty one (from an unset shell variable, say) would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def seconds(text: str) -> float:
    """The seconds in a time such as 30m, 2h or 7d."""
    match = re.fullmatch(r"([1-9]\d{0,3})([mhd])", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 30m, 2h or 7d")
    return float(match[1]) * {"m": 60, "h": 3600, "d": 86400}[match[2]]


def _share(text: str) -> float:
    """A share of the time. Below a twentieth, changes would come faster than they are replayed."""
    share = _number(text)
    if not 0.05 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0.05 and 1")
    return share


def _megabytes(text: str) -> float:
    """The bytes in a number of megabytes."""
    megabytes = _number(text)
    if not 1 <= megabytes <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of megabytes, 1 or more")
    return megabytes * 1e6


def _number(text: str) -> float:
    """A text as a number; -1 where it is none."""
    try:
        return float(text)
    except ValueError:
        return -1.0


def add_migration_options(parser: argparse.ArgumentParser) -> None:
    """Options of a command that runs a migration or rolls it back: what else it can do."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--dry-run", action="store_true", help="print each step, whether it is done, and its SQL; run nothing"
    )
    what.add_argument("--status", action="store_true", help="print the journal: steps and runs")
    what.add_argument("--write-sql", action="store_true", help="write the SQL file and run nothing")
    what.add_argument(
        "--remove-when-done",
        action="store_true",
        help="remove execute_sql at the end and keep the journal; if the run fails, execute_sql stays",
    )
    add_yes_option(parser)
    parser.add_argument(
        "--online", action="store_true", help="with --write-sql: a file for psql that commits between batches"
    )


def add_copy_options(parser: argparse.ArgumentParser) -> None:
    """Options for how a copy treats the application beside it."""
    parser.add_argument(
        "--pace",
        type=_share,
        metavar="SHARE",
        help="work for this share of the time and pause for the rest: 0.5 halves the load (default: 1)",
    )
    parser.add_argument(
        "--max-lag",
        type=_megabytes,
        metavar="MB",
        help="pause while a replica is further behind than this, or a replication slot keeps more",
    )
    parser.add_argument(
        "--ignore-snapshots",
        action="store_true",
        help="swap the tables without waiting for older statements, which may then miss rows",
    )


def add_yes_option(parser: argparse.ArgumentParser) -> None:
    """The option of a command that asks before it changes anything."""
    parser.add_argument("--yes", action="store_true", help="ask nothing (as MIGRATION_YES=1)")


def add_stop_options(parser: argparse.ArgumentParser) -> None:
    """Options of a command that can stop before the end of a migration."""
    parser.add_argument(
        "--stop-before-swap",
        action="store_true",
        help="do all that comes before the swap; run again, it catches up, compares again and stops again, or without this option swaps",
    )
    parser.add_argument("--until", metavar="STEP", help="stop after this step")


def add_rollback_options(parser: argparse.ArgumentParser) -> None:
    """Options for how a rollback ends."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--discard-changes",
        action="store_true",
        help="restore the data as it was at the swap; says first how many changes that discards",
    )
    how.add_argument(
        "--give-up",
        action="store_true",
        help="give up a rollback that has begun but not swapped: the migrated table stays in use",
    )


def check_text(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """End with exit code 2 where an argument has bytes that are not text in this environment."""
    if not all(is_text(argument) for argument in arguments):
        advice = "PYTHONUTF8=1 may help" if (encoding := sys.getfilesystemencoding()) != "utf-8" else "write it in that"
        parser.error(f"an argument is not text in the encoding of this environment, {encoding}; {advice}")


def check_together(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with exit code 2 where options do not go together."""
    if options.online and not options.write_sql:
        parser.error("--online needs --write-sql")
    for option in ("discard_changes", "give_up"):
        if getattr(options, option) and not options.rollback:
            parser.error(f"--{option.replace('_', '-')} needs --rollback")
    stops = options.stop_before_swap or options.until is not None
    if options.finish and options.rollback:
        parser.error("--finish cannot be combined with --rollback")
    if stops and (options.rollback or options.finish or options.remove_when_done):
        parser.error(
            "--stop-before-swap and --until cannot be combined with --rollback, --finish or --remove-when-done"
        )
    if (options.record or options.accept_edits) and (options.rollback or options.finish or options.write_sql):
        parser.error("--record and --accept-edits cannot be combined with --rollback, --finish or --write-sql")
    if options.patience is not None and not options.patience > 0:
        parser.error("--patience takes a positive number of seconds")
