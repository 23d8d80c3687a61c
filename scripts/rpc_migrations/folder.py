"""A folder of migration files: which of them are applied, by whom, and which are to be run, in the order of their names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from . import step_file
from .errors import MigrationError, StepFileError
from .journal import History, Status
from .migration import Migration, Step
from .step_file import read_migrations, refuse_what_is_no_text

APPLIED, APPLIED_BY_CLI, BEGUN, TO_DO = "applied", "applied by the Supabase CLI", "begun", "to do"


@dataclass(frozen=True)
class Folder:
    """Migration files in order, and the name under which the journal knows a run of them."""

    name: str
    migrations: tuple[Migration, ...]


@dataclass(frozen=True)
class File:
    """A migration file, and where it stands."""

    migration: Migration
    status: Status
    state: str  # applied, applied by the Supabase CLI, begun, to do

    @property
    def is_applied(self) -> bool:
        """Whether there is nothing left to be run."""
        return self.state in (APPLIED, APPLIED_BY_CLI)

    def to_dict(self) -> dict[str, Any]:
        """For the report: file, state, finished_at and client of its last step, edited."""
        done = [
            row for step in self.migration.steps if (row := self.status.steps.get(step.name)) and row["finished_at"]
        ]
        last = max(done, key=lambda row: str(row["finished_at"]), default={})
        return {
            "file": self.migration.title, "state": self.state, "finished_at": last.get("finished_at"),
            "client": last.get("client"), "edited": [step.name for step in self.edited],
        }  # fmt: skip

    @property
    def edited(self) -> list[Step]:
        """Steps that were done with another text than they have now."""
        return self.status.edited_steps(self.migration)


def is_folder(paths: Sequence[Path]) -> bool:
    """Whether the paths mean more than one file."""
    return len(paths) > 1 or paths[0].is_dir()


def read_folder(paths: Sequence[Path]) -> Folder:
    """Read files, and all of the folders' files that end in .sql, in the order of their names.

    Raises StepFileError for a folder without any, for two files of one name, and as read_migrations does.
    """
    files: list[Path] = []
    for path in paths:
        # What begins with a dot is an editor's or the file system's.
        found = [one for one in path.glob("[!.]*.sql") if one.is_file()] if path.is_dir() else [path]
        if not found:
            raise StepFileError(
                f"There is no .sql file in {path}.", hint="Give the folder that holds the migration files."
            )
        files += found
    files.sort(key=lambda file: file.name)
    for one, other in pairwise(files):
        if one.stem == other.stem:
            raise StepFileError(
                f"{one} and {other} have the same name, by which the journal knows a migration.",
                hint="Rename one of them, or give one of them only.",
            )
    migrations = tuple(migration for file in files for migration in read_migrations(file))
    if len(paths) > 1:
        return Folder("several files", migrations)
    if not paths[0].is_dir():
        return Folder(migrations[0].name, migrations)
    name = f"{paths[0].resolve().name}/"
    refuse_what_is_no_text(name, f"The name of the folder {name!r}")
    return Folder(name, migrations)


def look_up(folder: Folder, history: History) -> list[File]:
    """Where each file stands."""
    return [File(migration, *_state(migration, history)) for migration in folder.migrations]


def _state(migration: Migration, history: History) -> tuple[Status, str]:
    status = history.of(migration)
    if status.has_done(migration):
        return status, APPLIED
    if status.is_begun:
        return status, BEGUN
    return status, APPLIED_BY_CLI if migration.version in history.by_cli else TO_DO


def choose(files: Sequence[File], *, up_to: str | None, include_all: bool) -> list[File]:
    """The files that are to be run, in order. `up_to`: the last one, by name, file name or version.

    Raises MigrationError where there is none of that name, and where one sorts before a file that is applied, unless
    `include_all`.
    """
    if up_to is not None:
        names = [{one.migration.name, one.migration.path.name, one.migration.version} for one in files]
        places = [place for place, known in enumerate(names) if up_to in known]
        if not places:
            raise StepFileError(f"There is no file {up_to} here.", hint="Give --to the name of one of the files.")
        files = files[: places[-1] + 1]
    applied = [one for one in files if one.is_applied]
    chosen = [one for one in files if not one.is_applied]
    if not include_all and applied:
        late = [
            one.migration.path.name
            for one in chosen
            if one.state == TO_DO and one.migration.path.name < applied[-1].migration.path.name
        ]
        if late:
            raise MigrationError(
                f"{', '.join(late)}: not applied, and sorts before {applied[-1].migration.path.name}, which is.",
                hint="Nothing was run. Give it a later timestamp; or add --include-all, which runs it now.",
            )
    return chosen


def check(files: Sequence[File], chosen: Sequence[File]) -> None:
    """Raise where some of the chosen files cannot run as they are, or one of all is being rolled back: before any of them is run."""
    step_file.check(one.migration for one in chosen)
    for one in files:
        if one.status.is_rolling_back:
            raise MigrationError(
                f"A rollback of {one.migration.name} is under way. Nothing was run.",
                hint=f"Finish it first, or give it up (--give-up): python scripts/run_migration.py {one.migration.path} --rollback",
            )


def refuse_equal_versions(folder: Folder) -> None:
    """Raise StepFileError for two files of one version: the Supabase CLI's table has room for one of them."""
    for one, other in pairwise(folder.migrations):  # in the order of their names
        if one.version is not None and one.version == other.version and one.path != other.path:
            raise StepFileError(
                f"{one.path.name} and {other.path.name} have the same version, and the Supabase CLI knows a file by its version.",
                hint="Nothing was run. Give one of them another timestamp, or leave --record out.",
            )


def runs(folder: Folder, files: Sequence[File], *, record: bool) -> Iterator[Migration]:
    """The files as migrations to be run one after the other: those that rebuild a table each by itself, others together.

    `record`: the last step of each file tells the Supabase CLI's table. A run after which some of the folder's files are not
    applied names its own in its closing line.
    """
    together: list[File] = []
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


def _closing(folder: Folder, files: Sequence[File]) -> str:
    if len(files) == 1:
        return f"{files[0].migration.path.name} is applied"
    return f"{len(files)} files of {folder.name} are applied"


def _recorded(migration: Migration) -> Migration:
    """The same, with what the last step tells the Supabase CLI's table. Raises StepFileError where it could not run the file."""
    last = replace(migration.steps[-1], record=migration.for_the_cli())
    return replace(migration, steps=(*migration.steps[:-1], last))


def _joined(folder: Folder, files: Sequence[File], *, record: bool) -> Migration:
    """One migration of all steps that are left."""
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
