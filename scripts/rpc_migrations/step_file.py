"""Step files: a migration as one SQL file that a person reads from top to bottom.

A line `-- step: NAME` begins a step, `-- step: NAME (batch)` one that is sent again until it says that it is done. What
stands above the first step is a comment for the reader. Lines `-- formerly: CHECKSUM` below it name the checksums of earlier
texts of the step that have the same effect: where one of them was run, the step counts as done, not as edited.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from .errors import StepFileError

ROLLBACK_PREFIX = "roll back: "  # steps of a rollback stand in the journal beside those of their migration

_STEP_LINE = re.compile(r"^--\s*step:\s*(?P<name>.*?)\s*(?P<batch>\(batch\))?\s*$", re.IGNORECASE)
_FORMERLY_LINE = re.compile(r"^--\s*formerly:\s*(?P<checksum>[0-9a-f]{64})\s*$", re.IGNORECASE)
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)


@dataclass(frozen=True)
class Step:
    """One step: what takes effect as a whole, once."""

    name: str
    sql: str
    batch: bool
    path: Path
    line: int  # of the line that names it, counted from 1
    formerly: tuple[str, ...] = ()  # checksums of earlier texts with the same effect

    @property
    def checksums(self) -> tuple[str, ...]:
        """SHA-256 of the text, so that the journal can tell whether a step that was done has been edited since; and of the
        earlier texts that count as the same.
        """
        return hashlib.sha256(self.sql.encode()).hexdigest(), *self.formerly


@dataclass(frozen=True)
class Migration:
    """A step file: its steps in order, and the name under which the journal knows it."""

    name: str
    path: Path
    steps: tuple[Step, ...]


def read_migration(path: Path, *, name: str | None = None) -> Migration:
    """Read a step file; the migration's name is the file's, without its ending, unless another one is given.

    Raises StepFileError: no such file, not UTF-8, no steps, SQL above the first step, an empty step, a name used twice or
    kept for the steps of a rollback.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise StepFileError(
            f"There is no file {path}.", hint="Give the path of a step file, for example db/migrate_user_clusters.sql."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise StepFileError(
            f"{path} cannot be read: {error}", hint="A step file is an SQL text in UTF-8 that you may read."
        ) from error

    steps = _split(path, text.removeprefix("\ufeff").split("\n"))  # not splitlines: U+2028 may stand in a value
    seen: set[str] = set()
    for step in steps:
        if step.name in seen:
            raise StepFileError(
                f'{path}, line {step.line}: there are two steps called "{step.name}".',
                hint="Give each step a name of its own.",
            )
        if step.name.startswith(ROLLBACK_PREFIX) and name is None:
            raise StepFileError(
                f'{path}, line {step.line}: names that begin with "{ROLLBACK_PREFIX}" belong to rollbacks.',
                hint="Give the step another name.",
            )
        if not _has_sql(step.sql):
            raise StepFileError(
                f'{path}, line {step.line}: step "{step.name}" is empty.',
                hint="Write its SQL below the line that names it.",
            )
        seen.add(step.name)
    return Migration(name or path.stem, path, tuple(steps))


def _split(path: Path, lines: list[str]) -> list[Step]:
    """The steps of a file, each from its naming line to the next."""
    starts = [(number, match) for number, line in enumerate(lines, start=1) if (match := _STEP_LINE.match(line))]
    if not starts:
        raise StepFileError(
            f"{path} has no steps.", hint="Begin each step with a line such as `-- step: add the column`."
        )
    if _has_sql("\n".join(lines[: starts[0][0] - 1])):
        raise StepFileError(f"{path} has SQL above its first step.", hint="Put a line `-- step: NAME` above it.")
    steps = []
    ends = [number - 1 for number, _ in starts[1:]] + [len(lines)]
    for (number, match), end in zip(starts, ends, strict=True):
        if not match["name"]:
            raise StepFileError(f"{path}, line {number}: a step without a name.", hint="Write `-- step: NAME`.")
        former = [found["checksum"] for found in takewhile(bool, map(_FORMERLY_LINE.match, lines[number:end])) if found]
        sql = "\n".join(lines[number + len(former) : end]).strip("\n") + "\n"
        steps.append(Step(match["name"], sql, match["batch"] is not None, path, number, tuple(former)))
    return steps


def _has_sql(text: str) -> bool:
    """Whether a text has anything but white space and comments. Used on whole steps only, never to split one."""
    return bool(_COMMENT.sub("", text).strip())
