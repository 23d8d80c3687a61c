"""Checks before the files of a folder are run: that they can run, and are plainly meant to, in this order, once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

from . import file_checks, other_tools
from .errors import MigrationError, StepFileError
from .file_names import name_of, version_and_name
from .folder import BEGUN, TO_DO, MigrationState, listed, with_those_beside
from .journal import THE_CLI, History, refuse_lost_steps, refuse_rollback_under_way
from .migration import Migration, is_own_step
from .sql import quote_literal
from .sql_text import NAME, Statement, canonical

if TYPE_CHECKING:
    from .client import RpcClient

_NUMBER = re.compile(r"\d+")
_TIMESTAMP = re.compile(r"(\d{12,})_")  # which no two files share by chance
_NAME = rf"{NAME}(?: \. {NAME})?"
_TABLE_MADE = re.compile(rf"create (?:unlogged )?table (?:if not exists )?(?P<name>{_NAME}) (?!\.)")
_DROPPED = re.compile(rf"drop (?P<kind>table|schema) (?:if exists )?(?P<names>{_NAME}(?: , {_NAME})*) ")
# Of a file in which the texts of others are looked for: statements, and these times characters, as it takes the square of it.
_MOST_STATEMENTS, _MOST_WORK = 500, 20_000_000
_NOT_COUNTED = re.compile("begin|start|commit|end|notify|set|reset|select|show|analyze|grant|revoke|comment")
_CHANGES = ("insert", "update", "delete", "merge", "copy", "truncate", "call", "with", "execute")
_CHANGES_IN_BLOCK = re.compile(
    r"\b(insert\s+into|update\s+[^\s;]+\s+set|delete\s+from|truncate|drop\s+(table|schema))\b", re.IGNORECASE
)
_TABLES_THERE = "select t.name from unnest(array[{names}]) as t (name) where pg_catalog.to_regclass(t.name) is not null"


def check(
    client: RpcClient,
    files: Sequence[MigrationState],
    wanted: Sequence[MigrationState],
    history: History,
    *,
    include_all: bool,
) -> None:
    """Raise MigrationError, before any file is run, if one of the wanted files that are not applied cannot run as it is or is not
    plainly meant to, or if any file is being rolled back. `include_all`: files that sort before an applied one may be run, and files that
    look as if they had been run by hand.
    """
    chosen = [one for one in wanted if not one.is_applied]
    file_checks.check(one.migration for one in chosen)
    for one in files:
        refuse_rollback_under_way(one.status, one.migration)
    _refuse_names([one.migration.file for one in files], [one.migration.file for one in chosen])
    _refuse_copies(files, chosen)
    _refuse_not_known(chosen)
    _refuse_equal_versions(chosen, history)
    _refuse_begun_twice(chosen)
    for one in chosen:
        refuse_lost_steps(one.status, one.migration)
    _refuse_renamed(files, chosen, history)
    noted = _without_file(files, history)
    _refuse_noted_otherwise(chosen, noted, history)
    if not include_all:
        _refuse_joined(files, chosen, noted, history)
        _refuse_late(wanted, noted)
        _refuse_run_by_hand(client, files, chosen)


def _refuse_names(names: Sequence[str], chosen: Sequence[str]) -> None:
    """Raise StepFileError for chosen files whose names say that they are no migrations, or leave their order open."""
    if back := [name for name in other_tools.ways_back(names) if name in chosen]:
        raise StepFileError(
            f"By its name this is a way back, but it would be run as a migration: {listed(back)}",
            hint="Nothing was run. Give the other files only (migrations/*.up.sql); or write the way back into a comment of its "
            "migration, `/* rollback: ... */`, which --rollback runs.",
        )
    if astray := [name for name in other_tools.without_number(names) if name in chosen]:
        raise StepFileError(
            f"Without the leading number that puts the others in order: {listed(astray)}",
            hint="Nothing was run. Give it a number that ends in front of _, - or a dot (01_a.sql, not 01abc.sql), or take it out of the folder; "
            "given alone, it runs as it is.",
        )
    if pair := other_tools.out_of_order(chosen):
        raise StepFileError(
            f"{pair[0]} comes before {pair[1]} by its name, but not by its number.",
            hint="Nothing was run. Give the numbers the same length (01, 02, 10) where none of them is applied yet; or run the files "
            "one by one.",
        )


def _refuse_copies(files: Sequence[MigrationState], chosen: Sequence[MigrationState]) -> None:
    """Raise StepFileError for a chosen file that has the number and the text of another."""
    by_number: dict[str, list[Migration]] = {}
    for one in files:
        if found := _NUMBER.match(one.migration.file):
            by_number.setdefault(found[0], []).append(one.migration)
    for one in chosen:
        found = _NUMBER.match(one.migration.file)
        for other in by_number[found[0]] if found else ():
            if other.path != one.migration.path and _has_statements(other) and _texts(other) == _texts(one.migration):
                raise StepFileError(
                    f"{one.migration.file} is a copy of {other.file}.",
                    hint="Nothing was run. Delete one of them.",
                )


def _refuse_not_known(chosen: Sequence[MigrationState]) -> None:
    """Raise MigrationError for files that another tool may have applied, as its table leaves it open."""
    for noted in (one.noted for one in chosen if one.noted and one.noted.doubt):  # also of one that was begun here
        files = list(dict.fromkeys(one.migration.file for one in chosen if one.noted == noted))  # a file may be several
        raise MigrationError(
            f"It cannot be told whether this is applied: {listed(files)}. {noted.doubt}",
            hint=f"Nothing was run. {noted.hint}",
        )


def _refuse_equal_versions(chosen: Sequence[MigrationState], history: History) -> None:
    """Raise MigrationError for a file whose version the Supabase CLI has, perhaps from another file."""
    for one in chosen:
        version = one.migration.version
        if one.state == TO_DO and version in history.by_cli:
            name = history.by_cli[version]
            raise MigrationError(
                f"{one.migration.file} has the version of {f'{version}_{name}' if name else 'another file'}, which the Supabase CLI has applied; "
                "its table has room for one file of a version. Whether this one was applied cannot be told.",
                hint="Nothing was run. Give it another timestamp: then it is run. If it was applied already, run also: "
                "supabase migration repair THAT_TIMESTAMP --status applied"
                + (f". If it is that one under another name, call it {version}_{name}.sql again." if name else ""),
            )


def _refuse_begun_twice(chosen: Sequence[MigrationState]) -> None:
    """Raise MigrationError for a file that was begun here, and that another tool has applied since."""
    for one in chosen:
        migration = one.migration
        if one.state == BEGUN and one.noted:
            left = [step.name for step in migration.steps if not one.status.is_done(step)]
            to_forget = (
                f"supabase migration repair {migration.version} --status reverted"
                if one.noted.tool == THE_CLI
                else f"take it out of the table of {one.noted.tool}"
            )
            raise MigrationError(
                f"{migration.file} was begun here, and counts as applied for {one.noted.tool}. Not done here: {listed(left)}",
                hint=f"Nothing was run. If it has run it, run in the SQL Editor: select rpc_migrations.mark_undone({quote_literal(migration.name)}). "
                f"If that is still to be run: {to_forget}",
            )


def _refuse_renamed(files: Sequence[MigrationState], chosen: Sequence[MigrationState], history: History) -> None:
    """Raise MigrationError for a file that was applied under another name, which no file has any more."""
    names = {one.migration.name for one in files}
    others = {name: _texts_done(history, name) for name in history.rows if name not in names}
    by_text = {texts: name for name, texts in others.items() if texts}
    by_version = {found[1]: name for name in by_text.values() if (found := _TIMESTAMP.match(name))}
    if not by_text:
        return
    for migration in (one.migration for one in chosen if one.state == TO_DO and _has_statements(one.migration)):
        same_text, same_version = by_text.get(_texts(migration)), by_version.get(migration.version or "")
        name = same_text or same_version
        former = migration.path.with_name(f"{name}.sql")
        if name and (former == migration.path or not former.exists()):
            raise MigrationError(
                f"{migration.file} has the {'text' if same_text else 'number'} of {name}, which is applied and has no file any more. "
                "Renamed, it would be run again.",
                hint="Nothing was run. Give it its old name. If it is a new one, "
                + (
                    "and is to do the same again, add a statement, `select 1;`."
                    if same_text
                    else "give it another number."
                ),
            )


def _refuse_joined(
    files: Sequence[MigrationState], chosen: Sequence[MigrationState], noted: Mapping[str, str], history: History
) -> None:
    """Raise MigrationError for a file that has the whole text of applied ones in it: of several, or beside other statements of one that
    has no file any more.
    """
    names = {one.migration.name for one in files}
    done = {name: texts for name in history.rows if (texts := _texts_done(history, name))}
    by_cli = {f"{version}_{name}".rstrip("_"): history.noted_texts.get(version) for version, name in noted.items()}
    for migration in (one.migration for one in chosen if one.state == TO_DO and (done or noted)):
        number, within = _texts_within(migration)
        found = {
            name: sum(within[text] for text in texts) for name, texts in done.items() if within.keys() >= set(texts)
        }
        gone = {name: acts for name, acts in found.items() if name not in names}
        gone |= {name: within[text] for name, text in by_cli.items() if text in within}
        different = {done.get(name) or by_cli[name] for name in found | gone}  # one text again and again is meant
        if len(different) > 1 or (gone and number > sum(gone.values())):
            raise MigrationError(
                f"{migration.file} has in it the whole text of what is applied: {listed(list(gone or found))}. It would be run again.",
                hint="Nothing was run. If the file stands in their place, put them back; or make it known as applied: supabase migration repair "
                f"{migration.version or 'NUMBER'} --status applied. If all of it is to be run, add --include-all.",
            )


def _texts_within(migration: Migration) -> tuple[int, dict[str, int]]:
    """How many of its statements count, and the checksums, as the journal has them and as the Supabase CLI's table is read, of all texts
    that are some of its statements, one after the other, and change rows: each with the number of those in it that count.
    """
    statements = [one for step in migration.steps for one in step.all_statements][:_MOST_STATEMENTS]
    if len(statements) * sum(len(one.sql) + len(one.data or "") for one in statements) > _MOST_WORK:
        return 0, {}
    pieces, between = [], ""
    for one in statements:
        pieces.append((between, canonical(one.sql) + (f" ; {one.data}" if one.data is not None else "")))
        between = " ; " if one.data is None else " "
    noted = [("", text) for text in other_tools.noted_pieces(migration.path)]
    counted = [_NOT_COUNTED.fullmatch(one.words(1)[0]) is None for one in statements]
    changes = [_changes_rows(one) for one in statements]
    return sum(counted), _runs(pieces, counted, changes) | _runs(noted, counted, changes)


def _changes_rows(statement: Statement) -> bool:
    """Whether a second run may do harm without an error: what only makes things either fails or says what is to be there."""
    first, second = [*statement.words(2), ""][:2]
    if first == "do":
        return _CHANGES_IN_BLOCK.search(statement.sql) is not None
    return first in _CHANGES or (first, second) in (("drop", "table"), ("drop", "schema"))


def _runs(pieces: Sequence[tuple[str, str]], counted: Sequence[bool], changes: Sequence[bool]) -> dict[str, int]:
    """The SHA-256 of all neighbours among the pieces, each with what stands before it where it is not the first, if one of them changes
    rows; and how many of them count.
    """
    found: dict[str, int] = {}
    for first in range(min(len(pieces), len(counted))):
        digest, number, changing = sha256(), 0, False
        for place in range(first, min(len(pieces), len(counted))):
            between, text = pieces[place]
            digest.update(((between if place > first else "") + text).encode())
            number += counted[place]
            changing |= changes[place]
            if changing:
                found[digest.copy().hexdigest()] = number
    return found


def _without_file(files: Sequence[MigrationState], history: History) -> dict[str, str]:
    """The versions that the Supabase CLI has and no file has, each with the name that is noted with it."""
    versions = {version_and_name(path)[0] for path in with_those_beside(one.migration for one in files)}
    return {version: name or "" for version, name in history.by_cli.items() if version not in versions}


def _refuse_noted_otherwise(chosen: Sequence[MigrationState], noted: Mapping[str, str], history: History) -> None:
    """Raise MigrationError for files whose names or texts the Supabase CLI has with versions that no file has."""
    by_name = {name: version for version, name in noted.items() if name}
    by_text = {history.noted_texts[version]: version for version in noted if version in history.noted_texts}
    found: dict[str, str] = {}
    for one in (one.migration for one in chosen if noted and one.state == TO_DO and _has_statements(one.migration)):
        names = version_and_name(one.path)[1], name_of(one.path)
        version = by_text.get(other_tools.noted_text(one.path)) or next(
            (by_name[name] for name in names if name in by_name), None
        )
        if version:
            found[one.file] = f"{version}_{noted[version]}".rstrip("_")
    if found:
        raise MigrationError(
            f"By its name or its text, this is a migration that the Supabase CLI has as applied, and that has no file: {listed(list(found))}. "
            "If it is the same, it would be run again.",
            details="\n".join(f"{file}: {other}" for file, other in found.items()),
            hint="Nothing was run. If it is the same, give it the number that it has there (the dashboard and others note the time at which they "
            "run a migration). If not, give it another name, or add a statement, `select 1;`.",
        )


def _refuse_late(wanted: Sequence[MigrationState], noted: Mapping[str, str]) -> None:
    """Raise MigrationError for files that sort before one that is applied and has its place in the order; or before a version, of the
    same length, that the Supabase CLI has and no file has: they may be that one.
    """
    astray = other_tools.without_number(one.migration.file for one in wanted)
    applied = [name for one in wanted if one.is_applied and (name := one.migration.file) not in astray]
    last = max(applied, default="")
    to_do = [one.migration for one in wanted if one.state == TO_DO]
    if late := [one.file for one in to_do if one.file < last]:
        raise MigrationError(
            f"{', '.join(late)}: not applied, and sorts before {last}, which is.",
            hint="Nothing was run. Give it a later timestamp; or add --include-all, which runs it now.",
        )
    for one in to_do:
        own = one.version or ""
        later = [version for version in noted if len(version) == len(own) and version > own]
        if later and _has_statements(one):
            raise MigrationError(
                f"{one.file}: not applied, and sorts before {max(later)}, which the Supabase CLI has as applied, and which has no file.",
                hint="Nothing was run. If it is the same, give it that number. Otherwise give it a later one; or add --include-all, which runs "
                "it now.",
            )


def _refuse_run_by_hand(client: RpcClient, files: Sequence[MigrationState], chosen: Sequence[MigrationState]) -> None:
    """Raise MigrationError if no file is known as applied, but tables are there that the chosen ones drop and make: whoever runs files in
    the SQL Editor leaves no note of it.
    """
    if any((one.is_applied or one.state == BEGUN) and _has_statements(one.migration) for one in files):
        return
    made = dict(_tables_made_anew(one.migration for one in chosen))
    names = ", ".join(quote_literal(name) for name in made)
    there = [row["name"] for row in client.rows(_TABLES_THERE.format(names=names), {"name": str})] if made else []
    if there:
        raise MigrationError(
            "None of the files is known as applied, but tables that they drop and make anew are there: "
            f"{listed([f'{name} ({made[name]})' for name in there])}. If they were run by hand, their rows would be lost.",
            hint="Nothing was run. Run those that are new, each by its name; or add --include-all, which runs all of them. What was run by hand "
            "is made known by: supabase migration repair NUMBER --status applied",
        )


def _tables_made_anew(migrations: Iterable[Migration]) -> Iterator[tuple[str, str]]:
    """The names, as they are written, of the tables that are dropped, alone or with their schema, and then made; and the files that do it."""
    dropped: set[tuple[str, ...]] = set()  # (schema,) and (schema, table)
    for migration in migrations:
        for statement in (one for step in migration.steps for one in step.statements):
            (first,) = statement.words(1)
            if first not in ("create", "drop"):
                continue
            text = " ".join(statement.words(12 if first == "create" else None)) + " "  # a DROP may list many
            if found := _DROPPED.match(text):
                of_public = ("public",) if found["kind"] == "table" else ()
                dropped |= {_parts(name, of_public) for name in found["names"].split(" , ")}
            elif found := _TABLE_MADE.match(text):
                schema, table = _parts(found["name"], ("public",))
                if dropped & {(schema,), (schema, table)}:
                    yield found["name"].replace(" . ", "."), migration.file


def _parts(name: str, before: tuple[str, ...]) -> tuple[str, ...]:
    """Schema and table of a name, or what it has of them behind `before`; written in quotes or not."""
    parts = tuple(part.strip('"') for part in name.split(" . "))
    return parts if len(parts) > len(before) else (*before, *parts)


def _texts_done(history: History, name: str) -> tuple[str, ...]:
    """The checksums of a migration's steps in the journal, where all of them are done."""
    rows = [row for step, row in history.rows[name].items() if is_own_step(step)]
    return tuple(row["checksum"] for row in rows) if all(row["finished_at"] for row in rows) else ()


def _texts(migration: Migration) -> tuple[str, ...]:
    return tuple(step.checksums[0] for step in migration.steps)


def _has_statements(migration: Migration) -> bool:
    return any(step.statements for step in migration.steps)
