"""Where in a migration file an error happened, from what the database says of it."""

from __future__ import annotations

import re
import unicodedata

from .errors import MigrationError, StatementTimedOut
from .migration import Step
from .places import DEPLOY_COMMAND
from .sql_text import with_plain_line_ends

# What rpc_migrations.place_of_error writes below the detail of an error.
_PLACE = re.compile(r"(?:\A|\n)(?:Statement (?P<place>\d+) of \d+|At the commit)\Z")
_MOST_LINES, _MOST_COLUMNS = 3, 76  # of a statement that are shown
_NOTHING_REMAINS = "Nothing of this step remains. Fix the cause, then run the same command again."
# What editors, web pages and joined files leave in SQL, where it is a letter like any other.
_UNSEEN = re.compile("[\u00a0\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff]")
_DROPPED = f"If its name and arguments are right, somebody has dropped it. Run: {DEPLOY_COMMAND}; then run the same command again."


def in_its_place(step: Step, error: MigrationError) -> MigrationError:
    """The same error, with the step that it came from, and the line and first lines of the statement if they are known."""
    details = error.details or ""
    found = _PLACE.search(details)
    line, shown = step.line, []
    if found:
        details = details[: found.start()]
        if found["place"] is None:
            shown = ["at the end of the step, where deferred constraints are checked"]
        elif step.block is None and int(found["place"]) <= len(step.statements):
            statement = step.statements[int(found["place"]) - 1]
            line, shown = statement.line, _first_lines(statement.sql, statement.line)
    hint = error.hint or _NOTHING_REMAINS
    if error.code == "42883" and "rpc_migrations." in error.message:
        hint = _DROPPED
    elif error.code == "42601" and (unseen := _UNSEEN.search(error.message)):
        name = unicodedata.name(unseen[0], "without a name").lower()
        hint = f"There is a character in it that cannot be seen, U+{ord(unseen[0]):04X} ({name}): delete it, or put a space in its place. {hint}"
    elif isinstance(error, StatementTimedOut):
        hint = f"{_ways_round_the_limit(step)} {hint}"
    return type(error)(
        f'Step "{step.name}" ({step.file}, line {line}): {error.message}',
        hint=hint,
        details="\n".join([*filter(None, [details]), *shown]) or None,
        code=error.code,
    )


def _ways_round_the_limit(step: Step) -> str:
    """What to do where a step takes longer than one request may. What calls our functions, such as a rebuild's steps, cannot be divided."""
    run = "run this file over a direct connection: its command with --write-sql --online writes what psql then runs."
    if step.calls or step.can_shrink:
        return run.capitalize()
    if step.batch:
        return f"Let its text ask how many rows to take, `limit rpc_migrations.batch_size(N)`, which is less after each timeout; or {run}"
    return f"Make it smaller or a batch step; or {run}"


def _first_lines(sql: str, line: int) -> list[str]:
    """The first lines of a statement, with their numbers."""
    lines = with_plain_line_ends(sql).split("\n")
    shown = [
        f"{number} | {text if len(text) <= _MOST_COLUMNS else text[: _MOST_COLUMNS - 3] + '...'}"
        for number, text in enumerate(lines[:_MOST_LINES], start=line)
    ]
    return [*shown, "..."] if len(lines) > _MOST_LINES else shown
