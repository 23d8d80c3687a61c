"""COPY ... FROM stdin with the rows below it, as pg_dump writes it. psql sends the rows over its own connection; here they become an INSERT.

The values reach the same input functions as text. As COPY does, the INSERT sets columns that are GENERATED ALWAYS AS IDENTITY.
The format is the text format of PostgreSQL's manual, sql-copy. What only the database knows, and would make the INSERT do something
else in silence, is looked for where it runs: rules, and the columns of a table whose columns are not listed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise, zip_longest

from .sql import quote_literal
from .sql_text import Statement, meaningful, unquoted

# PostgreSQL reads all values of an INSERT before it stores the first one, and takes about 1 KB for each. COPY takes none.
_MOST_VALUES = 250_000
_END = "\\."
_PLAIN = re.compile(r"'(?:[^'\\]|'')*'|'\\N'")  # a string without escapes
_DELIMITER = re.compile(r"[\x01-\x7f](?<![a-z0-9.\\\r\n])")
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
_FILLERS = ("with", "as", "(", ")", ",")  # between the options, in the manual's two ways to write them


@dataclass(frozen=True)
class _Target:
    """What a COPY says before its rows: the table, the columns that it lists, as they are written, and how a row is read."""

    table: str
    columns: list[str]
    delimiter: str = "\t"
    null: str = r"\N"

    def fields(self, line: str) -> list[str]:
        """The fields of a row, as they are written."""
        if "\\" not in line:
            return line.split(self.delimiter)
        end = re.escape(self.delimiter)
        return [found[1] for found in re.finditer(rf"(?:^|{end})((?:[^\\{end}]|\\.)*)", line)]


class CannotBeInsertedError(ValueError):
    """What stands in the way, in words for the user."""


def as_insert(copy: Statement) -> str:
    """The INSERT that does what a COPY does with the rows below it. Raises CannotBeInsertedError."""
    target = _target(copy)
    return _insert(target, _rows(copy, target))


def as_checked_insert(copy: Statement) -> str:
    """The INSERT, behind a block that raises an error where COPY would do something else. They count as one statement."""
    target = _target(copy)
    rows = _rows(copy, target)
    name = quote_literal(target.table)
    columns_check = "" if target.columns or not rows else _COLUMNS_CHECK.format(table=name, values=len(rows[0][1]))
    return _RULES_CHECK.format(table=name, columns_check=columns_check) + _insert(target, rows)


def _insert(target: _Target, rows: list[tuple[int, list[str]]]) -> str:
    table, columns = target.table, target.columns
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
    values = ",\n".join(f"({', '.join(_value(field, target.null) for field in row)})" for _, row in rows)
    return f"insert into {table}{listed} overriding system value values\n{values}"


def _target(copy: Statement) -> _Target:
    """What the COPY says, if all of its options are of the text format: a delimiter, and what stands for NULL."""
    words = [copy.sql[start:end] for _, start, end, _ in meaningful(copy.sql)]
    lower = [word.lower() for word in words]
    place = next((place for place, pair in enumerate(pairwise(lower), 1) if pair == ("from", "stdin")), None)
    if place is None:
        raise CannotBeInsertedError("the rows do not come from stdin")
    opening = words.index("(") if "(" in words[:place] else place - 1
    options = [word for word in words[place + 1 :] if word.lower() not in _FILLERS]
    read = {}
    for name, value in zip_longest(options[::2], options[1::2], fillvalue=""):
        if name.lower() in ("delimiter", "null") and _PLAIN.fullmatch(value):
            read[name.lower()] = unquoted(value)
        elif (name.lower(), value.lower()) != ("format", "text"):
            raise CannotBeInsertedError(f"it has the option {name.lower()}")
    if not _DELIMITER.fullmatch(read.get("delimiter", "\t")):
        raise CannotBeInsertedError("its delimiter is not one that COPY takes")
    return _Target("".join(words[1:opening]), [word for word in words[opening + 1 : place - 2] if word != ","], **read)


def _rows(copy: Statement, target: _Target) -> list[tuple[int, list[str]]]:
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
    return [(number, target.fields(line)) for number, line in enumerate(lines, first)]


def _value(field: str, null: str) -> str:
    return "null" if field == null else quote_literal(_ESCAPE.sub(_unescaped, field) if "\\" in field else field)


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
