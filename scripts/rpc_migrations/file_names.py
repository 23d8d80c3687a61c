"""What migration files are called: in messages, in the journal, and by the Supabase CLI."""

from __future__ import annotations

import re
from pathlib import Path

_IN_ITS_OWN_FOLDER = re.compile(r"(?P<name>\d[^/]*)/(migration|up)\.sql")  # 20260101000000_init/migration.sql
_CLI_NAME = re.compile(r"(?P<version>[0-9]+)_(?P<name>.*)")


def file_of(path: Path) -> str:
    """The name of a file for messages and for sorting: with its folder, if each migration has one of its own."""
    with_folder = f"{path.absolute().parent.name}/{path.name}"
    return with_folder if _IN_ITS_OWN_FOLDER.fullmatch(with_folder) else path.name


def name_of(path: Path) -> str:
    """The name of a file in the journal: without its suffix; or that of its folder, if each migration has one of its own."""
    found = _IN_ITS_OWN_FOLDER.fullmatch(file_of(path))
    return found["name"] if found else path.stem


def version_and_name(path: Path) -> tuple[str | None, str]:
    """A file as the Supabase CLI notes it: the digits that its name begins with (None: there are none), and the rest."""
    match = _CLI_NAME.fullmatch(name_of(path))
    return (match["version"], match["name"]) if match else (None, name_of(path))
