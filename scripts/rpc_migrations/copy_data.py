"""COPY ... FROM stdin with the rows below it, as pg_dump writes it. psql sends the rows over its own connection; here they become an INSERT.

The values reach the same input functions as text. As COPY does, the INSERT sets columns that are GENERATED ALWAYS AS IDENTITY.
The format is the text format of PostgreSQL's manual, sql-copy. What only the database knows, and would make the INSERT do something
else in silence, is looked for where it runs: rules, and the columns of a table whose columns are not listed.
"""

from __future__ import annotations

import re

from .sql import quote_literal
from .sql_text import Statement, meaningful

# PostgreSQL reads all values of an INSERT before it stores the first one, and takes about 1 KB for each. COPY takes none.
_MOST_VALUES = 250_000
_END = "\\."
_ESCAPE = re.compile(r"\\([0-7]{1,3}|x[0-9A-Fa-f]{1,2}|.)", re.DOTALL)
_RULES_CHECK = """do $check$ begin
if exists (
    select from pg_catalog.pg_rewrite where ev_class = {table}::pg_catalog.regclass and ev_type = '3' and ev_enabled <> 'D'
) then
    raise exception using
        errcode = '0A000', message = 'COPY would ignore the rules of ' || {table} || ', and the INSERT that it becomes here does not',
        hint = 'Disable them around it (alter table ... disable rule), or write the rows as INSERT if the rules are meant to act.';
end if;
{columns_check}end $check$;
"""
_COLUMNS_CHECK = """if repeat('v', {values}) is distinct from (
    select rtrim(string_agg(case attgenerated when '' then 'v' else 'g' end, '' order by attnum), 'g')
    from pg_catalog.pg_attribute where attrelid = {table}::pg_catalog.regclass and attnum > 0 and not attisdropped
) then
    raise exception using
        errcode = '22P04', message = 'the rows do not have one value for each column of ' || {table},
        hint = 'List the columns that they are for: copy ... (a, b) from stdin. (Those that are generated have none.)';
end if;
"""
_CONTROLS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class CannotBeInsertedError(ValueError):
    """What stands in the way, in words for the user."""


def as_insert(copy: Statement) -> str:
    """The INSERT that does what a COPY does with the rows below it. Raises CannotBeInsertedError."""
    return _insert(*_target(copy), _rows(copy))


def as_checked_insert(copy: Statement) -> str:
    """The INSERT, behind a block that raises an error where COPY would do something else. They count as one statement."""
    table, columns = _target(copy)
    rows = _rows(copy)
    name = quote_literal(table)
    columns_check = "" if columns or not rows else _COLUMNS_CHECK.format(table=name, values=len(rows[0][1]))
    return _RULES_CHECK.format(table=name, columns_check=columns_check) + _insert(table, columns, rows)


def _insert(table: str, columns: list[str], rows: list[tuple[int, list[str]]]) -> str:
    listed = f" ({', '.join(columns)})" if columns else ""
    if not rows:
        return (
            f"insert into {table}{listed} overriding system value select {', '.join(columns)} from {table} where false"
        )
    width = len(columns or rows[0][1])
    for line, row in rows:
        if len(row) != width:
            raise CannotBeInsertedError(f"line {line} does not have as many values as there are columns")
    if width * len(rows) > _MOST_VALUES:
        raise CannotBeInsertedError(
            f"it would take about {width * len(rows) // 1000} MB of the server's memory; "
            f"write it as several, each of at most {_MOST_VALUES // width} rows"
        )
    values = ",\n".join(f"({', '.join(map(_value, row))})" for _, row in rows)
    return f"insert into {table}{listed} overriding system value values\n{values}"


def _target(copy: Statement) -> tuple[str, list[str]]:
    """The table, and the columns that it lists, as they are written."""
    words = [copy.sql[start:end] for _, start, end, _ in meaningful(copy.sql)]
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
