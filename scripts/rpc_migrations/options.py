"""The options of the command lines: those that every command has, those that several share, and what may stand behind them."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

from .deployment import current_version
from .step_file import is_text

# What the options of some commands are in all others.
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
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="print the version that is deployed, and exit")
    parser.add_argument(
        "--json",
        action="store_true",
        help="write one JSON document about the run to standard output, and nothing else there",
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="append everything to a file, with the time")
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("--quiet", action="store_true", help="show only warnings and errors")
    volume.add_argument("--verbose", action="store_true", help="show more")
    parser.add_argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        help="how long to go on trying to get a lock or an answer (default: 300)",
    )
    parser.add_argument(
        "--allow-http", action="store_true", help="let the key travel over http:// to a host that is not this one"
    )
    return parser


def path(text: str) -> Path:
    """A path; an empty one, as of a variable that is not set, would be the folder where one is."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def seconds(text: str) -> float:
    """What a time such as 30m, 2h or 7d means."""
    match = re.fullmatch(r"([1-9]\d{0,3})([mhd])", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 30m, 2h or 7d")
    return float(match[1]) * {"m": 60, "h": 3600, "d": 86400}[match[2]]


def _share(text: str) -> float:
    """A share of the time. Slower than a twentieth, and changes come faster than they are replayed."""
    share = _number(text)
    if not 0.05 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0.05 and 1")
    return share


def _megabytes(text: str) -> float:
    """What is meant, in bytes."""
    megabytes = _number(text)
    if not 1 <= megabytes <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of megabytes from 1 up")
    return megabytes * 1e6


def _number(text: str) -> float:
    """What a text means as a number; -1 where it means none."""
    try:
        return float(text)
    except ValueError:
        return -1.0


def add_migration_options(parser: argparse.ArgumentParser) -> None:
    """Of a command that runs a migration or takes it back: what else it may do."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--dry-run", action="store_true", help="print each step, whether it is done, and its SQL; run nothing"
    )
    what.add_argument("--status", action="store_true", help="print what the journal says: steps and runs")
    what.add_argument("--write-sql", action="store_true", help="write the SQL file and run nothing")
    what.add_argument(
        "--remove-when-done",
        action="store_true",
        help="take execute_sql away at the end and keep the journal; if the run fails, execute_sql stays",
    )
    add_yes_option(parser)
    parser.add_argument(
        "--online", action="store_true", help="with --write-sql: a file for psql that commits between batches"
    )


def add_copy_options(parser: argparse.ArgumentParser) -> None:
    """How a copy goes on beside the application."""
    parser.add_argument(
        "--pace",
        type=_share,
        metavar="SHARE",
        help="work for this share of the time, and pause for the rest of it: 0.5 halves the load (default: 1)",
    )
    parser.add_argument(
        "--max-lag",
        type=_megabytes,
        metavar="MB",
        help="pause while a replica, or what a replication slot keeps, is further behind than this",
    )
    parser.add_argument(
        "--ignore-snapshots",
        action="store_true",
        help="swap the tables although statements that began before are still running; they may miss rows",
    )


def add_yes_option(parser: argparse.ArgumentParser) -> None:
    """Of a command that asks before it changes anything."""
    parser.add_argument("--yes", action="store_true", help="ask nothing (as MIGRATION_YES=1)")


def add_stop_options(parser: argparse.ArgumentParser) -> None:
    """Of a command that may stop before the end of a migration."""
    parser.add_argument(
        "--stop-before-swap",
        action="store_true",
        help="do all that comes before the swap; run again, it catches up, compares again, and stops again; without this option it swaps",
    )
    parser.add_argument("--until", metavar="STEP", help="stop after this step")


def add_rollback_options(parser: argparse.ArgumentParser) -> None:
    """How a rollback ends."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--discard-changes",
        action="store_true",
        help="restore the data as it was at the swap; says how many changes that discards",
    )
    how.add_argument(
        "--give-up",
        action="store_true",
        help="give up a rollback that has begun and has not swapped: the migrated table stays in use",
    )


def check_text(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """End with a message where an argument has bytes that are no letters here."""
    if not all(is_text(argument) for argument in arguments):
        advice = "PYTHONUTF8=1 may help" if (encoding := sys.getfilesystemencoding()) != "utf-8" else "write it in that"
        parser.error(f"an argument is no text in the encoding of this environment, {encoding}; {advice}")


def check_together(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with exit code 2 where options do not go together."""
    if options.online and not options.write_sql:
        parser.error("--online goes with --write-sql")
    for option in ("discard_changes", "give_up"):
        if getattr(options, option) and not options.rollback:
            parser.error(f"--{option.replace('_', '-')} goes with --rollback")
    stops = options.stop_before_swap or options.until is not None
    if options.finish and options.rollback:
        parser.error("--finish does not go with --rollback")
    if stops and (options.rollback or options.finish or options.remove_when_done):
        parser.error("--stop-before-swap and --until go with none of --rollback, --finish and --remove-when-done")
    if (options.record or options.accept_edits) and (options.rollback or options.finish or options.write_sql):
        parser.error("--record and --accept-edits go with none of --rollback, --finish and --write-sql")
    if options.patience is not None and not options.patience > 0:
        parser.error("--patience takes a positive number of seconds")
