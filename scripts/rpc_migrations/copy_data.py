"""COPY ... FROM stdin with the rows below it, as pg_dump writes it. psql sends the rows over its own connection; here they become an INSERT.

The values reach the same input functions as text. As COPY does, the INSERT sets columns that are GENERATED ALWAYS AS IDENTITY.
The format is the text format of PostgreSQL's manual, sql-copy.
"""

from __future__ import annotations

import re

from .sql import quote_literal
from .sql_text import COMMENTS, Statement, walk

_END = "\\."
_ESCAPE = re.compile(r"\\([0-7]{1,3}|x[0-9A-Fa-f]{1,2}|.)", re.DOTALL)
_CONTROLS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class CannotBeInsertedError(ValueError):
    """What stands in the way, in words for the user."""


def as_insert(copy: Statement) -> str:
    """The INSERT that does what a COPY does with the rows below it. Raises CannotBeInsertedError."""
    table, columns = _target(copy)
    rows = _rows(copy)
    if not rows:
        return f"select {', '.join(columns)} from {table} where false"
    for line, row in rows:
        if columns and len(row) != len(columns):
            raise CannotBeInsertedError(f"line {line} does not have as many values as there are columns")
    listed = f" ({', '.join(columns)})" if columns else ""
    values = ",\n".join(f"({', '.join(map(_value, row))})" for _, row in rows)
    return f"insert into {table}{listed} overriding system value values\n{values}"


def _target(copy: Statement) -> tuple[str, list[str]]:
    """The table, and the columns that it lists, as they are written."""
    tokens = [token for token in walk(copy.sql) if token[0] != "space" and token[0] not in COMMENTS]
    words = [copy.sql[start:end] for _, start, end, _ in tokens]
    if [word.lower() for word in words[-2:]] != ["from", "stdin"]:
        raise CannotBeInsertedError("it has options")
    opening = words.index("(") if "(" in words else len(words) - 2
    return "".join(words[1:opening]), [word for word in words[opening + 1 : -3] if word != ","]


def _rows(copy: Statement) -> list[tuple[int, list[str]]]:
    """The number of each line of data in the file, and its fields as they are written."""
    behind, *lines = (copy.data or "").split("\n")
    if behind.strip() and not behind.strip().startswith("--"):
        raise CannotBeInsertedError("more SQL stands behind it on its line")
    if lines[-1:] == [""]:
        lines.pop()
    if lines and lines[-1].rstrip() == _END:
        lines.pop()
    if all(line.endswith("\r") for line in lines):
        lines = [line[:-1] for line in lines]
    first = copy.line + copy.sql.count("\n") + 1
    for number, line in enumerate(lines, first):
        if "\r" in line or (len(line) - len(line.rstrip("\\"))) % 2:
            raise CannotBeInsertedError(f"line {number} has a line break within a value")
    return [(number, line.split("\t")) for number, line in enumerate(lines, first)]


def _value(field: str) -> str:
    return "null" if field == r"\N" else quote_literal(_ESCAPE.sub(_unescaped, field) if "\\" in field else field)


def _unescaped(escape: re.Match[str]) -> str:
    code = escape[1]
    if code[0] in "01234567":
        return _character(int(code, 8))
    return _character(int(code[1:], 16)) if len(code) > 1 else _CONTROLS.get(code, code)


def _character(code: int) -> str:
    """A byte given by its number. Those beyond ASCII would be pieces of a character."""
    if not 0 < code < 128:
        raise CannotBeInsertedError(f"a byte is written by its number, {code}")
    return chr(code)
