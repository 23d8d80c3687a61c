"""A folder of migration files: which are applied, and by whom; which are to be run, in the order of their names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from .errors import StepFileError
from .file_names import file_of, name_of, refuse_name, refuse_what_is_no_text, version_and_name
from .journal import BEING_ROLLED_BACK, History, Status
from .migration import Migration, Step
from .other_histories import Noted
from .other_tools import noted_text, ways_back
from .step_file import read_migrations

MOST_NAMES = 5  # that are told at once
APPLIED, BEGUN, TO_DO, NOT_KNOWN = "applied", "begun", "to do", "not known"


@dataclass(frozen=True)
class Folder:
    """Migration files in order, and the name under which the journal knows a run of them."""

    name: str
    migrations: tuple[Migration, ...]
    within: tuple[str, ...] = ()  # subfolders with .sql files, which are not run
    left_out: tuple[str, ...] = ()  # files with a leading number that do not end in .sql


@dataclass(frozen=True)
class MigrationState:
    """A migration of the folder's files, and where it stands. (A file that rebuilds several tables is several migrations.)"""

    migration: Migration
    status: Status
    state: str  # applied, begun, to do; "applied by ..." where another tool has, "not known: ..." where its table leaves that open
    noted: Noted | None = None  # what another tool has noted of it, where it is not applied here

    @property
    def is_applied(self) -> bool:
        """Whether there is nothing left to be run."""
        return self.state.startswith(APPLIED)

    def to_dict(self) -> dict[str, Any]:
        """For the report: file, state, finished_at and client of its last step, edited."""
        done = [
            row for step in self.migration.steps if (row := self.status.steps.get(step.name)) and row["finished_at"]
        ]
        last = max(done, key=lambda row: str(row["finished_at"]), default={})
        state = BEING_ROLLED_BACK if self.status.is_rolling_back else self.state
        return {
            "file": self.migration.title, "state": state, "finished_at": last.get("finished_at"),
            "client": last.get("client"), "edited": [step.name for step in self.edited],
        }  # fmt: skip

    @property
    def edited(self) -> list[Step]:
        """Steps that were done with another text than they have now."""
        return self.status.edited_steps(self.migration)


def is_folder(paths: Sequence[Path]) -> bool:
    """Whether the paths mean more than one file."""
    return len(paths) > 1 or os.path.isdir(paths[0])  # Path.is_dir raises where permissions do not let it know


def read_folder(paths: Sequence[Path]) -> Folder:
    """Read files, and the .sql files of folders, in the order of their names. Instead of .sql files of its own, a folder may have a
    subfolder for each migration, 20260101000000_init/migration.sql.

    Raises StepFileError for a folder with no .sql file, or with something that only looks like one; for two files of the same name;
    and for a single file as read_migrations does.
    """
    files: list[Path] = []
    within: list[str] = []
    left_out: list[str] = []
    for path in paths:
        if not is_folder([path]):
            files.append(path)
            continue
        try:
            inner = sorted(path.glob("*/*.sql"))
            own = _files_of(path) or [file for file in inner if file_of(file) != file.name]
            within += sorted({f"{file.parent.name}/" for file in inner} - {f"{file.parent.name}/" for file in own})
            left_out += sorted(
                one.name for one in path.glob("[0-9]*") if one.is_file() and one.suffix.lower() != ".sql"
            )
            _refuse_other_folders(path, own, within)
            files += own
        except OSError as error:
            raise StepFileError(f"{path} cannot be read: {error}", hint="Give a folder that you may read.") from error
    files.sort(key=file_of)
    for one, other in pairwise(files):
        if name_of(one) == name_of(other):
            raise StepFileError(
                f"{one} and {other} have the same name, by which the journal knows a migration.",
                hint="Rename one of them, or give one of them only.",
            )
    if not is_folder(paths):
        migrations = read_migrations(files[0])
        return Folder(migrations[0].name, migrations)
    migrations = tuple(migration for file in files for migration in _read_file(file))
    if len(paths) > 1:
        return Folder("several files", migrations, tuple(within), tuple(left_out))
    name = f"{paths[0].resolve().name}/"
    refuse_what_is_no_text(name, f"The name of the folder {name!r}")
    return Folder(name, migrations, tuple(within), tuple(left_out))


def _read_file(file: Path) -> tuple[Migration, ...]:
    """The migrations of one of several files. What is wrong with its text is kept until it is known whether another tool has applied it:
    in old files a comment may look like a step line, and nobody edits what is applied.
    """
    refuse_name(file)
    try:
        return read_migrations(file)
    except StepFileError as error:
        if not os.access(file, os.R_OK):
            raise
        return (Migration(name_of(file), file, (), error=error),)


def _files_of(path: Path) -> list[Path]:
    """The .sql files of a folder. Raises StepFileError for something that only looks like one."""
    # What begins with a dot is an editor's or the file system's.
    named = [one for one in path.iterdir() if one.suffix.lower() == ".sql" and one.name[0] != "." and not one.is_dir()]
    for one in named:
        if one.suffix != ".sql" or not one.is_file():
            what = "is a link to no file" if one.suffix == ".sql" else "does not end in .sql in lower case"
            raise StepFileError(f"{one} {what}.", hint="Nothing was run. Rename it, or take it out of the folder.")
    return named


def _refuse_other_folders(path: Path, own: Sequence[Path], within: Sequence[str]) -> None:
    """Raise StepFileError for a folder with no migrations, with another order than that of the names, or with a folder "migrations" in it."""
    if (path / "sqitch.plan").exists() or (path.parent / "sqitch.plan").exists():
        raise StepFileError(
            f"The order of the files in {path} is that of a sqitch.plan; here it is that of their names.",
            hint="Nothing was run. Give the files numbers, in a folder of their own.",
        )
    if not own:
        inner = f" Those in its subfolders ({listed(within)}) do not count." if within else ""
        raise StepFileError(
            f"There is no .sql file in {path if path.name else path.resolve()}.{inner}",
            hint="Give the folder that holds the migration files.",
        )
    if "migrations/" in within:
        raise StepFileError(
            f"{path} has .sql files of its own ({listed(sorted(one.name for one in own))}), and a folder migrations.",
            hint=f"Nothing was run. Give {path / 'migrations'}; or the files, one by one.",
        )


def listed(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")


def look_up(folder: Folder, history: History) -> list[MigrationState]:
    """Where each file stands."""
    others = _of_a_version_noted_for_another(folder, history)
    return [
        _look_up(one, history, by_cli=one.version in history.by_cli and one.path not in others)
        for one in folder.migrations
    ]


def _look_up(migration: Migration, history: History, *, by_cli: bool) -> MigrationState:
    status = history.of(migration.name)
    if status.has_done(migration) and not migration.error:
        return MigrationState(migration, status, APPLIED)
    noted = history.noted_elsewhere(migration, by_cli=by_cli)
    if migration.error and (status.is_begun or noted is None or noted.doubt):
        raise migration.error
    if status.is_begun:
        state = BEGUN
    else:
        state = (
            TO_DO if noted is None else f"{NOT_KNOWN}: {noted.tool}" if noted.doubt else f"{APPLIED} by {noted.tool}"
        )
    return MigrationState(migration, status, state, noted)


def with_those_beside(migrations: Iterable[Migration]) -> set[Path]:
    """Their files, and those beside them: in the same folder, or in a folder beside theirs if each migration has its own."""
    own = {one.path for one in migrations}
    places = {
        (path.parent, "*.sql") if file_of(path) == path.name else (path.parent.parent, f"*/{path.name}") for path in own
    }
    return own.union(*(folder.glob(pattern) for folder, pattern in places))


def _of_a_version_noted_for_another(folder: Folder, history: History) -> set[Path]:
    """Files whose version the Supabase CLI may have from another file: its table has room for one of a version, and notes its name and SQL.

    Ways back (x.down.sql) do not count, as they are not to be run.
    """
    paths = with_those_beside(folder.migrations)
    back = ways_back(file_of(path) for path in paths)
    same: dict[str, list[Path]] = {}
    for path in paths:
        version, _ = version_and_name(path)
        if version in history.by_cli and file_of(path) not in back:
            same.setdefault(version, []).append(path)
    return {
        path
        for version, files in same.items()
        for path in files
        if not _is_noted(path, version, history, is_alone=len(files) == 1)
    }


def _is_noted(path: Path, version: str, history: History, *, is_alone: bool) -> bool:
    """Whether it is the file that the Supabase CLI has noted with its version: it was perhaps renamed since, or edited. `is_alone`: no other
    file has that version.
    """
    name, text = history.by_cli[version], history.noted_texts.get(version)
    if version_and_name(path)[1] == name:
        return True
    if is_alone and not (name and text):
        return True
    return text is not None and text == noted_text(path)


def stop_after(files: Sequence[MigrationState], name: str | None) -> Sequence[MigrationState]:
    """The files up to the given one (its name, file name or version). Raises StepFileError if there is none of that name."""
    if name is None:
        return files
    names = [{one.migration.name, one.migration.file, one.migration.version} for one in files]
    places = [place for place, known in enumerate(names) if name in known]
    if not places:
        raise StepFileError(f"There is no file {name} here.", hint="Give --to the name of one of the files.")
    return files[: places[-1] + 1]


def refuse_equal_versions(folder: Folder) -> None:
    """Raise StepFileError for two files of one version: the Supabase CLI's table has room for one of them."""
    for one, other in pairwise(folder.migrations):  # in the order of their names
        if one.version is not None and one.version == other.version and one.path != other.path:
            raise StepFileError(
                f"{one.file} and {other.file} have the same version, and the Supabase CLI knows a file by its version.",
                hint="Nothing was run. Give one of them another timestamp, or leave --record out.",
            )


def runs(folder: Folder, files: Sequence[MigrationState], *, record: bool) -> Iterator[Migration]:
    """The migrations to be run, one after the other: each that rebuilds a table alone, the others between them joined to one.

    `record`: the last step of each file tells the Supabase CLI's table. A run that does not end with the folder's last file
    says in its closing line which files it has applied.
    """
    together: list[MigrationState] = []
    for one in files:
        if not (one.migration.rebuilds or one.migration.stops_before):
            together.append(one)
            continue
        if together:
            yield replace(_joined(folder, together, record=record), closing=_closing(folder, together))
        together = []
        ends_file = one.migration.is_last and not one.migration.stops_before
        yield _recorded(one.migration) if record and ends_file else one.migration
    if together:
        is_last = together[-1].migration is folder.migrations[-1]
        yield replace(_joined(folder, together, record=record), closing=None if is_last else _closing(folder, together))


def _closing(folder: Folder, files: Sequence[MigrationState]) -> str:
    if len(files) == 1:
        return f"{files[0].migration.file} is applied"
    return f"{len(files)} files of {folder.name} are applied"


def _recorded(migration: Migration) -> Migration:
    """The migration, whose last step tells the Supabase CLI's table. Raises StepFileError if the CLI could not run the file."""
    last = replace(migration.steps[-1], record=migration.for_the_cli())
    return replace(migration, steps=(*migration.steps[:-1], last))


def _joined(folder: Folder, files: Sequence[MigrationState], *, record: bool) -> Migration:
    """One migration made of all steps of these files that are left to do."""
    steps: list[Step] = []
    for one in files:
        own = one.migration
        for step in own.steps:
            if one.status.is_done(step):
                continue
            title = own.name if len(own.steps) == 1 and step.name == own.name else f"{own.name}: {step.name}"
            is_last = step is own.steps[-1]
            steps.append(
                replace(
                    step,
                    name=title,
                    known_as=(own.name, step.name),
                    record=own.for_the_cli() if record and is_last and not own.stops_before else None,
                )
            )
    return Migration(folder.name, files[0].migration.path.parent, tuple(steps))
