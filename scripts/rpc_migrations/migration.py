"""A migration as it is run: its steps in order, and its names in the journal and for the Supabase CLI. step_file.py reads it from a file."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .copy_data import as_insert
from .errors import StepFileError
from .file_names import file_of, name_of, version_and_name
from .rewrites import as_run
from .sql import quote_literal
from .sql_text import Statement, canonical, split, with_plain_line_ends
from .transactions import without_transaction

ROLLBACK_PREFIX = "roll back: "  # steps of a rollback stand in the journal beside those of their migration
FINISH_PREFIX = "close the way back: "  # and so do these

# A call in a canonical text. Behind other words, such as TABLE or INTO, a name and a parenthesis are those of a table.
_CALL = re.compile(r'(?:[(,=]|\b(?i:from|join|lateral|perform|select))\s*"?rpc_migrations"? ?\. ?"?(\w+)"? ?\(')


def is_own_step(name: str) -> bool:
    """Whether a step of the journal is one of its migration itself, not of the rollback or of finishing."""
    return not name.startswith((ROLLBACK_PREFIX, FINISH_PREFIX))


@dataclass(frozen=True)
class Step:
    """One step: SQL that takes effect as a whole, once."""

    name: str
    sql: str
    batch: bool
    path: Path
    line: int  # of the line that names it, counted from 1; 1 where the whole file is the step
    first_line: int  # of its text
    formerly: tuple[str, ...] = ()  # checksums of earlier texts with the same effect
    settings: tuple[Statement, ...] = ()  # what the steps above it have set for their session, if a COMMIT divides them
    known_as: tuple[str, str] | None = None  # (migration, step) in the journal, in a run of several migrations
    record: dict[str, Any] | None = None  # what the Supabase CLI's table is to be told when it is done
    block: str | None = None  # the table, where a `-- rebuild:` block stands for the step
    written: tuple[str, ...] = ()  # the statements of that block as the file has them; its first step only

    @property
    def file(self) -> str:
        """The name of its file for messages."""
        return file_of(self.path)

    @cached_property
    def statements(self) -> tuple[Statement, ...]:
        """The statements that are run, without a BEGIN and COMMIT around them: a step is a transaction already."""
        return self.settings + without_transaction(self.all_statements)

    @cached_property
    def all_statements(self) -> list[Statement]:
        """The statements of its text."""
        return split(self.sql, first_line=self.first_line)

    @cached_property
    def separator(self) -> str | None:
        """What divides the statements in `query`; None if there is only one."""
        if len(self.statements) < 2:
            return None
        separator = "\n;\n"
        while any(separator in one for one in self._texts):
            separator = separator[:-1] + ";\n"
        return separator

    @cached_property
    def query(self) -> str:
        """The SQL as it is sent. A single statement is sent as it stands, with its comments."""
        if self.separator is not None:
            return self.separator.join(self._texts)
        # Around it may stand commands of psql's that are skipped (a backslash in a comment there counts as one).
        around = self.sql.replace(self.statements[0].sql, "", 1) if self.statements else self.sql
        as_it_is = (
            len(self.all_statements) == len(self.statements)
            and "\\" not in around
            and self._texts == [one.sql for one in self.statements]
        )
        return self.sql if as_it_is else "".join(self._texts)

    @property
    def as_sent(self) -> dict[str, Any]:
        """What the database is told of its text: the SQL, how to divide it, and whether it is to be sent again until it is done."""
        return {"query": self.query, "separator": self.separator, "batch": self.batch}

    @cached_property
    def _texts(self) -> list[str]:
        return [as_run(one) for one in self.statements]

    @property
    def recorded(self) -> list[str]:
        """Its statements as they are written; a COPY with the rows below it as the INSERT that is run."""
        return [one.sql if one.data is None else as_insert(one) for one in self.statements]

    @cached_property
    def calls(self) -> frozenset[str]:
        """The names of our functions that it calls."""
        # Most steps do not name our schema, and canonical() takes seconds for large ones.
        return frozenset(_CALL.findall(canonical(self.sql)) if "rpc_migrations" in self.sql else ())

    @property
    def begins_a_copy(self) -> bool:
        """Whether it begins to rebuild a table."""
        return not self.calls.isdisjoint(("begin_copy", "begin_rebuild"))

    @property
    def swaps(self) -> bool:
        """Whether it puts a new table in the old one's place, or the old one back."""
        return not self.calls.isdisjoint(("swap", "swap_back"))

    @property
    def can_shrink(self) -> bool:
        """Whether a smaller batch of it is possible: its text, or a function of ours that it calls, asks batch_size how much to take."""
        asking = ("copy_batch", "find_changes", "replay", "swap", "swap_back")
        return self.batch and ("batch_size" in self.sql or not self.calls.isdisjoint(asking))

    @property
    def counts_rows(self) -> bool:
        """Whether its "rows" are rows of a table; those of our other functions are constraints, log entries or nothing."""
        return self.calls <= {"copy_batch", "batch_size"}

    @cached_property
    def checksums(self) -> tuple[str, ...]:
        """SHA-256 of the canonical SQL, which tells whether a step that was done has been edited since; of the text as it stands, which
        journals of earlier versions have; and of earlier texts that count as the same. Line ends make no difference.
        """
        text = with_plain_line_ends(self.sql)
        return _sha256(canonical(text)), _sha256(text), *self.formerly


@dataclass(frozen=True)
class Migration:
    """A migration file, or the part of one that rebuilds a table: its steps in order, and the name under which the journal knows it."""

    name: str
    path: Path
    steps: tuple[Step, ...]
    rollback: tuple[Step, ...] = ()  # those of the rollback comment in the file
    closing: str | None = None  # the closing line of its run, if it is not "NAME is applied"
    stops_before: str | None = None  # the first step that is not to be run yet
    file_steps: tuple[Step, ...] = ()  # the steps of the whole file, if that is several migrations
    error: StepFileError | None = None  # why it has no steps: a file that another tool has applied

    @property
    def file(self) -> str:
        """The name of its file for messages."""
        return file_of(self.path)

    @property
    def rebuilds(self) -> bool:
        """Whether it makes an online copy of a table, which has a way back of its own."""
        return any(step.begins_a_copy for step in self.steps)

    @property
    def version(self) -> str | None:
        """The digits by which the Supabase CLI knows the file; None if its name does not begin with digits."""
        return version_and_name(self.path)[0]

    @property
    def title(self) -> str:
        """The name of the file, with the table if the migration is one of several in it."""
        return self.file + self.name.removeprefix(name_of(self.path)) if self.file_steps else self.file

    @property
    def is_last(self) -> bool:
        """Whether it is the last migration of its file."""
        return not self.file_steps or self.steps[-1].line == self.file_steps[-1].line

    @property
    def later_rebuilds(self) -> list[Step]:
        """The first steps of the rebuilds that come after it in the file."""
        return [step for step in self.file_steps if step.written and step.line > self.steps[-1].line]

    def name_of_part(self, first_step: Step) -> str:
        """The journal's name for the migration that begins with this step, the second one of its file or a later one."""
        return f"{name_of(self.path)} ({first_step.block})"

    def may_need_others(self, step: Step) -> bool:
        """Whether ordinary steps come before it in the file: they may make what it needs."""
        steps = self.file_steps or self.steps
        return any(one.block is None for one in steps[: steps.index(step)])

    @property
    def comparison(self) -> list[Step]:
        """The steps before the swap that replay and compare."""
        found: list[Step] = []
        for step in self.steps:
            if step.swaps:
                break
            if not step.calls.isdisjoint(("replay", "compare")):
                found.append(step)
        return found

    def end_of(self, rollback: tuple[Step, ...]) -> tuple[Step, ...]:
        """The steps of a rebuild's rollback, with one more if the Supabase CLI's table may have the file."""
        is_known = self.version is not None and any(step.block is not None for step in self.steps)
        return (*rollback, self.forgetting(1)) if is_known else rollback

    def forgetting(self, line: int) -> Step:
        """The last step of a rollback, from which on the migration counts as not applied, also for the Supabase CLI."""
        forget = f"select * from rpc_migrations.end_rollback({quote_literal(self.version)});\n"
        return Step(f"{ROLLBACK_PREFIX}count it as not applied", forget, False, self.path, line, line)

    def for_the_cli(self) -> dict[str, Any]:
        """The row for the Supabase CLI's table of applied files. Raises StepFileError if the CLI could not run the file."""
        version, name = version_and_name(self.path)
        if version is None or not self.file.startswith(f"{version}_") or self.file != self.path.name:
            raise StepFileError(
                f"{self.file} cannot be recorded for the Supabase CLI, which only knows files called <14 digits>_name.sql.",
                hint="Rename the file, or leave --record out. Nothing was run.",
            )
        steps = self.file_steps or self.steps
        if any("rpc_migrations." in step.sql for step in steps if step.block is None):
            raise StepFileError(
                f"{self.file} cannot be recorded for the Supabase CLI: `supabase db reset` would run it where rpc_migrations is not.",
                hint="Leave --record out for this file. Nothing was run.",
            )
        statements = [sql for step in steps for sql in (step.written if step.block else step.recorded)]
        return {"version": version, "name": name, "statements": statements}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
