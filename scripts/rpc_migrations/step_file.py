"""Migration files: SQL that a person reads from top to bottom, as one step or as several.

A line `-- step: NAME` begins a step, `-- step: NAME (batch)` one that is sent again until it says that it is done. Above the
first step there are only comments. Lines `-- formerly: CHECKSUM` below a step line name the checksums of earlier texts of the
step that have the same effect: if one of them was run, the step counts as done, not as edited. A file without step lines is
one step, named after the file.

A line `-- rebuild: public.orders` begins a block of ALTER TABLE on that table, which becomes the steps of an online rebuild (see
rebuild.py). A file that rebuilds several tables is as many migrations, one after the other: each has its own copy and its own way back.

A block comment `/* rollback: ... */` has the way back of a migration that rebuilds no table: SQL, with or without step lines.
For psql and the Supabase CLI it is just a comment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from .errors import StepFileError
from .file_names import name_of, refuse_controls, refuse_name
from .migration import FINISH_PREFIX, ROLLBACK_PREFIX, Migration, Step
from .rebuild import REBUILD_LINE, is_name, read_rebuild
from .sql_text import COMMENTS, Statement, split, walk, with_plain_line_ends
from .transactions import commits, may_commit, session_settings

_STEP_LINE = re.compile(r"--\s*step:\s*(?P<name>.*?)\s*(?P<batch>\(batch\))?\s*", re.IGNORECASE)
_FORMERLY_LINES = re.compile(r"(?:\r?\n--\s*formerly:\s*[0-9a-f]{64}[ \t]*)*", re.IGNORECASE)
_CHECKSUM = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)
_NEARLY_A_STEP_LINE = re.compile(r"--+\s*step\b", re.IGNORECASE)
_NEARLY_A_BATCH = re.compile(r"[(\[{]\s*batch\w*\s*[)\]}]?$", re.IGNORECASE)
_NEARLY_A_REBUILD = re.compile(r"--+\s*rebuild\b\s*:?\s*[\w\"$]+\.[\w\"$]+\s*", re.IGNORECASE)
_MAY_HAVE_STEPS = re.compile(r"^[ \t]*--+\s*(step:|rebuild\b)", re.IGNORECASE | re.MULTILINE)
_MAY_HAVE_ROLLBACK = re.compile(r"/\*\s*rollback:", re.IGNORECASE)
_UTF_16 = ("\udcff\udcfe", "\udcfe\udcff")  # byte order marks of UTF-16, decoded with surrogateescape
_ODD_BYTES = re.compile("[\udc80-\udcff]")


def read_migration(path: Path, *, name: str | None = None) -> Migration:
    """Read a file that is one migration, named after the file unless another name is given. Raises as read_migrations does."""
    (migration,) = read_migrations(path, name=name)
    return migration


def read_migrations(path: Path, *, name: str | None = None) -> tuple[Migration, ...]:
    """Read a migration file: one migration, or one for each table that it rebuilds. The first one is named after the file, unless
    another name is given; the others have the table in their names.

    Raises StepFileError: no such file, it or its name not UTF-8, SQL above the first step, an empty step, a line that only looks like a
    step line, a control character in a name, a name used twice or reserved for rollbacks, a table rebuilt twice.
    """
    refuse_name(path)
    text = _read(path)
    steps = _steps(path, text)
    _check_names(path, steps, is_ours=name is not None)
    first, *others = _parts(path, steps)
    migration = Migration(name or name_of(path), path, first)
    if not others:
        return (replace(migration, rollback=tuple(_rollback_steps(migration, text))),)
    migrations = migration, *(Migration(migration.name_of_part(part[0]), path, part) for part in others)
    _rollback_steps(migration, text)  # raises StepFileError if there are any
    return tuple(replace(one, file_steps=tuple(steps)) for one in migrations)


def _parts(path: Path, steps: Sequence[Step]) -> list[tuple[Step, ...]]:
    """The steps of each of the file's migrations: the block of a second or later rebuild begins a new one."""
    parts: list[list[Step]] = [[]]
    tables: set[str | None] = set()
    for step in steps:
        if step.written and step.block in tables:
            raise StepFileError(
                f"{path}, line {step.line}: a second rebuild of {step.block}.",
                hint="Put all its alterations into one block.",
            )
        if step.block:
            tables.add(step.block)
        if step.begins_a_copy and any(one.begins_a_copy for one in parts[-1]):
            if not step.block:
                raise StepFileError(
                    f"{path}, line {step.line}: a second table that is rebuilt step by step.",
                    hint="Put it into a file of its own, or write it as a block, `-- rebuild: public.orders`.",
                )
            parts.append([])
        parts[-1].append(step)
    return [tuple(part) for part in parts]


def _check_names(path: Path, steps: list[Step], *, is_ours: bool) -> None:
    """Raise StepFileError for a step name that is used twice, or reserved for rollbacks or finishing."""
    seen: dict[str, bool] = {}  # and whether a rebuild gave it: those of several tables share them
    for step in steps:
        refuse_controls(step.name, f"{path}, line {step.line}: the name {step.name!r}", "Give the step another name.")
        is_given = step.block is not None
        if step.name in seen and not (is_given and seen[step.name]):
            raise StepFileError(
                f'{path}, line {step.line}: there are two steps called "{step.name}".',
                hint="Give each step a name of its own.",
            )
        for prefix, owner in ((ROLLBACK_PREFIX, "rollbacks"), (FINISH_PREFIX, "finishing")):
            if step.name.startswith(prefix) and not is_ours:
                raise StepFileError(
                    f'{path}, line {step.line}: names that begin with "{prefix}" are reserved for {owner}.',
                    hint="Give the step another name.",
                )
        seen[step.name] = is_given


def _rollback_steps(migration: Migration, text: str) -> list[Step]:
    """The steps of the file's comment `/* rollback: ... */`, and a last one that marks the migration as not applied."""
    if not _MAY_HAVE_ROLLBACK.search(text):
        return []
    path = migration.path
    found = [
        (match.end(), end - 2, text.count("\n", 0, start) + 1)
        for kind, start, end, depth in walk(text)
        if kind == "block_comment" and not depth and (match := _MAY_HAVE_ROLLBACK.match(text, start))
    ]
    if not found:
        return []
    # The line breaks keep line numbers those of the file. A comment without SQL does not count: nobody has filled it in.
    undoing = [(line, _steps(path, "\n" * (line - 1) + text[start:end])) for start, end, line in found]
    undoing = [(line, steps) for line, steps in undoing if any(step.statements for step in steps)]
    if not undoing:
        if any(step.statements for step in migration.steps):
            return []
        raise StepFileError(f"{path} has no SQL.", hint="Write some, and how to undo it into the rollback comment.")
    line, steps = undoing[-1]
    if len(undoing) > 1 or migration.rebuilds:
        why = "a rebuild has a way back of its own" if migration.rebuilds else "there is one above it already"
        raise StepFileError(f"{path}, line {line}: a rollback comment too many: {why}.", hint="Take it out.")
    if any(step.block for step in steps):
        raise StepFileError(
            f"{path}, line {line}: a rebuild in a rollback comment.", hint="Write it into a migration of its own."
        )
    _check_names(path, steps, is_ours=False)
    return [
        *(replace(step, name=ROLLBACK_PREFIX + step.name, line=max(step.line, line)) for step in steps),
        migration.forgetting(line),
    ]


def _read(path: Path) -> str:
    """The file's text, with its own line ends (strings keep them) and without a byte order mark."""
    try:
        text = path.read_bytes().decode(errors="surrogateescape").removeprefix("\ufeff")
    except FileNotFoundError as error:
        raise StepFileError(
            f"There is no file {path}.",
            hint="Give the path of a migration file, for example db/migrate_user_clusters.sql.",
        ) from error
    except OSError as error:
        raise StepFileError(f"{path} cannot be read: {error}", hint="Give a file that you may read.") from error
    if text.startswith(_UTF_16) or text.count("\0") * 4 > len(text):  # in front of every second letter, or behind it
        raise StepFileError(f"{path} is written in UTF-16.", hint="Save it as UTF-8.")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise StepFileError(f"{path}, line {line}: a NUL byte.", hint="PostgreSQL cannot store one. Remove it.")
    return _without_odd_bytes(path, text) if _ODD_BYTES.search(text) else text


def _without_odd_bytes(path: Path, text: str) -> str:
    """The text, with bytes that are not UTF-8 replaced in comments, which do not matter. Raises StepFileError if they are elsewhere."""
    for kind, start, end, _ in walk(text):
        is_read = kind not in COMMENTS or _MAY_HAVE_STEPS.match(text, start) or _MAY_HAVE_ROLLBACK.match(text, start)
        if is_read and (found := _ODD_BYTES.search(text, start, end)):
            line = text.count("\n", 0, found.start()) + 1
            raise StepFileError(
                f"{path}, line {line}: the byte {ord(found[0]) - 0xDC00:#04x} is not UTF-8.",
                hint="Save the file as UTF-8.",
            )
    return _ODD_BYTES.sub("\ufffd", text)


class _Mark(NamedTuple):
    """A line that begins a step or a rebuild: its number, where in the text it starts and ends, and what it says."""

    line: int
    start: int
    end: int
    name: str  # of a rebuild: of the table
    batch: bool
    rebuild: re.Match[str] | None = None


def _steps(path: Path, text: str) -> list[Step]:
    """The steps of a text: each from its step line to the next; without step lines the whole text."""
    marks = _marks(path, text) if _MAY_HAVE_STEPS.search(text) else []
    if not marks:
        return list(_between_commits(Step(name_of(path), text, False, path, 1, 1)))
    if stray := split(text[: marks[0].start]):
        first = text[marks[0].start : marks[0].end].strip()
        raise StepFileError(
            f"{path}, line {stray[0].line}: SQL above the first step (`{first}`, line {marks[0].line}).",
            hint=f"Put a line `-- step: NAME` above it; or, if `{first}` is only a comment, start it with another word.",
        )
    steps: list[Step] = []
    ends = [mark.start for mark in marks[1:]] + [len(text)]
    for mark, end in zip(marks, ends, strict=True):
        if mark.rebuild:
            steps += _rebuild_steps(path, mark, with_plain_line_ends(text[mark.end : end]))
            continue
        formerly = _FORMERLY_LINES.match(text, mark.end, end)
        assert formerly is not None
        sql = text[formerly.end() : end].rstrip("\r\n") + "\n"
        begins = formerly.end() + len(sql) - len(sql.lstrip("\r\n"))
        above = text.count("\n", mark.end, begins)
        former = tuple(_CHECKSUM.findall(formerly[0]))
        step = Step(mark.name, sql.lstrip("\r\n"), mark.batch, path, mark.line, mark.line + above, former)
        if not step.statements:
            raise StepFileError(
                f'{path}, line {step.line}: step "{step.name}" is empty.',
                hint="Write its SQL below the line that names it.",
            )
        steps += _between_commits(step)
    return steps


def _between_commits(step: Step) -> Iterator[Step]:
    """A step; or, if its text commits in the middle, the steps that it is then: NAME, NAME (2) and so on. The text of each goes on where
    that of the one before it ends.
    """
    ends = [one.end for one in commits(step.all_statements)] if not step.batch and may_commit(step.sql) else []
    if not ends:
        yield step
        return
    settings: tuple[Statement, ...] = ()
    for number, (start, end) in enumerate(pairwise((0, *ends, len(step.sql))), start=1):
        part = replace(
            step,
            name=step.name if number == 1 else f"{step.name} ({number})",
            sql=step.sql[start:end],
            first_line=step.first_line + step.sql.count("\n", 0, start),
            formerly=step.formerly if number == 1 else (),
            settings=settings,
        )
        settings += tuple(session_settings(part.all_statements))
        yield part


def _rebuild_steps(path: Path, mark: _Mark, text: str) -> Iterator[Step]:
    """The steps that the block below a rebuild line stands for."""
    assert mark.rebuild is not None
    rebuild = read_rebuild(path, mark.line, mark.name, mark.rebuild["backup"], text, first_line=mark.line)
    for place, (name, sql, is_batch) in enumerate(rebuild.steps()):
        written = () if place else tuple(one.sql for one in rebuild.statements)
        step = Step(name, sql, is_batch, path, mark.line, mark.line, block=rebuild.name, written=written)
        former = rebuild.former_texts().get(name)
        yield replace(step, formerly=replace(step, sql=former).checksums) if former else step


def _alters_a_table(text: str) -> bool:
    """Whether a text begins with ALTER TABLE. If it does not, `-- Rebuild: the view, anew` above it is a comment like others."""
    return any(one.words(2) == ["alter", "table"] for one in split(text)[:1])


def _marks(path: Path, text: str) -> list[_Mark]:
    """The lines that begin a step or a rebuild; not those within a string, a comment, parentheses or a function's body.

    Raises StepFileError for one without a name, and for lines that only look like one: the SQL below would become part of the
    step above.
    """
    marks: list[_Mark] = []
    near: list[tuple[int, str]] = []
    for kind, start, end, depth in walk(text):
        if kind != "line_comment" or depth:
            continue
        line_start = text.rfind("\n", 0, start) + 1
        comment, line = text[start:end], text.count("\n", 0, start) + 1
        match = _STEP_LINE.fullmatch(comment) if start == line_start else None
        if match and not match["name"]:
            raise StepFileError(f"{path}, line {line}: a step without a name.", hint="Write `-- step: NAME`.")
        if match and not _NEARLY_A_BATCH.search(match["name"]):
            marks.append(_Mark(line, start, end, match["name"], match["batch"] is not None))
        elif start == line_start and (rebuild := REBUILD_LINE.fullmatch(comment)):
            if is_name(rebuild["table"]) or _alters_a_table(text[end:]):
                marks.append(_Mark(line, start, end, rebuild["table"], False, rebuild))
        elif _NEARLY_A_REBUILD.fullmatch(comment) and not text[line_start:start].strip():
            raise StepFileError(
                f"{path}, line {line}: `{comment.strip()}` looks like a line that begins a rebuild, but is not one.",
                hint="Write `-- rebuild: public.orders` at the beginning of the line; or, if it is only a comment, start it with another word.",
            )
        elif _NEARLY_A_STEP_LINE.match(comment) and not text[line_start:start].strip():
            near.append((line, comment.strip()))
    if marks and near:
        line, comment = near[0]
        raise StepFileError(
            f"{path}, line {line}: `{comment}` looks like a line that begins a step, but is not one.",
            hint="Write `-- step: NAME` or `-- step: NAME (batch)` at the beginning of the line; or, if it is only a comment, start it with another word.",
        )
    return marks
