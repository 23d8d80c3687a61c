"""What migration files are called: in messages, in the journal, and by the Supabase CLI; and what they may not be called."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from .errors import StepFileError

_IN_ITS_OWN_FOLDER = re.compile(r"(?P<name>\d[^/]*)/(migration|up)\.sql")  # 20260101000000_init/migration.sql
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# As the CLI wants it; and as others call a file that they note in its table all the same: a timestamp is a migration's own.
_NOTED_NAME = re.compile(r"(?P<version>[0-9]+(?=_)|[0-9]{12,}(?=-|$))[_-]?(?P<name>.*)")


def file_of(path: Path) -> str:
    """The name of a file for messages and for sorting: with its folder, if each migration has one of its own."""
    with_folder = f"{path.absolute().parent.name}/{path.name}"
    return with_folder if _IN_ITS_OWN_FOLDER.fullmatch(with_folder) else path.name


def name_of(path: Path) -> str:
    """The name of a file in the journal: without its suffix; or that of its folder, if each migration has one of its own."""
    found = _IN_ITS_OWN_FOLDER.fullmatch(file_of(path))
    return found["name"] if found else path.stem


def version_and_name(path: Path) -> tuple[str | None, str]:
    """A file as the Supabase CLI's table has it: the digits that its name begins with (None: there are none), and the rest."""
    match = _NOTED_NAME.fullmatch(name_of(path))
    return (match["version"], match["name"]) if match else (None, name_of(path))


def refuse_name(path: Path) -> None:
    """Raise StepFileError for the name of a file that has control characters, or would be decoded differently elsewhere."""
    refuse_controls(file_of(path), f"The name of the file {file_of(path)!r}", "Rename the file.")
    refuse_what_is_no_text(file_of(path), f"The name of the file {file_of(path)!r}")


def refuse_what_is_no_text(name: str, what: str) -> None:
    """Raise StepFileError for a name that would be decoded differently elsewhere: the journal would take it for another migration."""
    if not name.isascii() and (encoding := sys.getfilesystemencoding()) != "utf-8":
        raise StepFileError(
            f"{what} would be read differently elsewhere: the encoding here is {encoding}, not utf-8.",
            hint="Set PYTHONUTF8=1 in the environment, then run the same command again. Nothing was run.",
        )
    if not is_text(name):
        raise StepFileError(f"{what} is not UTF-8.", hint="Rename the file. Nothing was run.")


def is_text(argument: str) -> bool:
    """Whether Python could decode all of its bytes."""
    return not re.search("[\ud800-\udfff]", argument)


def refuse_controls(name: str, what: str, hint: str) -> None:
    """Raise StepFileError for a control character: names are put into comments of the written file, and psql would run what follows a
    line break.
    """
    if _CONTROLS.search(name):
        raise StepFileError(f"{what} has a line break or another control character in it.", hint=hint)
