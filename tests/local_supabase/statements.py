"""SQL of the REST layer's requests: calls of functions, and the small part of the table endpoints that is
needed.

Every statement is (text, parameters) with $1, $2 … in the text. Values reach the database as JSON or as text
of unknown type, so that the database converts them, as with PostgREST.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from local_supabase.errors import RestError
from local_supabase.schema_cache import SCHEMA, Function, Table

Statement = tuple[str, list[Any]]
Query = list[tuple[str, str]]

_OPERATORS = {
    "eq": "=",
    "neq": "<>",
    "gt": ">",
    "gte": ">=",
    "lt": "<",
    "lte": "<=",
    "like": "like",
    "ilike": "ilike",
}
_NOT_FILTERS = ("select", "order", "limit", "offset", "on_conflict", "columns", "apikey")


def quote(name: str) -> str:
    """A quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def call(function: Function, arguments: Mapping[str, Any], body: str) -> Statement:
    """Call a function with named arguments (in `body`, a JSON object), or with the body itself as its one
    argument.
    """
    full_name = f"{quote(SCHEMA)}.{quote(function.name)}"
    parameters: list[Any] = [body]
    given = [(name, kind) for name, kind in function.parameters if name in arguments]
    if function.takes_json_body and not function.takes(arguments):
        source, passed = "", f"$1::{function.parameters[0][1]}"
    elif given:
        columns = ", ".join(f"{quote(name)} {kind}" for name, kind in given)
        source = f"(select * from json_to_record($1::json) as _ ({columns})) as arguments, "
        variadic = function.parameters[-1][0] if function.variadic else None
        passed = ", ".join(
            f"{'variadic ' if name == variadic else ''}{quote(name)} := arguments.{quote(name)}" for name, _ in given
        )
    else:
        source, passed, parameters = "", "", []
    rows = f"select result.* from {source}lateral {full_name}({passed}) as result"
    if function.returns_void:
        source = source.removesuffix(", ") or "(select) as nothing"
        # Counted, so that the call is not planned away as unused.
        return (
            f"select count(call.done) from (select {full_name}({passed}) as done from {source}) as call",
            parameters,
        )
    if not function.returns_rows:
        rows = f"select result as scalar from {source}lateral {full_name}({passed}) as result"
    value = "answer" if function.returns_rows else "answer.scalar"
    if function.returns_set:
        return f"select coalesce(json_agg({value}), '[]')::text from ({rows}) as answer", parameters
    return f"select coalesce(json_agg({value}) -> 0, 'null')::text from ({rows}) as answer", parameters


def read(table: Table, query: Query) -> Statement:
    """Rows of a table as one JSON array, and how many there are."""
    parameters: list[Any] = []
    text = f"select {_columns(table, query)} from {_name(table)}{_where(table, query, parameters)}"
    text += _order(table, query)
    for key in ("limit", "offset"):
        value = _last(query, key)
        if value is not None:
            text += f" {key} {int(value)}"
    return f"select coalesce(json_agg(answer), '[]')::text, count(*) from ({text}) as answer", parameters


def count(table: Table, query: Query) -> Statement:
    """How many rows the filters select."""
    parameters: list[Any] = []
    return f"select count(*) from {_name(table)}{_where(table, query, parameters)}", parameters


def insert(table: Table, query: Query, body: str, resolution: str | None) -> Statement:
    """Insert the object or objects in `body`; `resolution` is merge-duplicates or ignore-duplicates for an
    upsert.
    """
    keys = _keys(table, body)
    names = ", ".join(quote(key) for key in keys)
    text = f"insert into {_name(table)} "
    if keys:
        text += f"({names}) select {names} from json_populate_recordset(null::{_name(table)}, $1::json)"
    else:
        text += "default values"
    if resolution:
        conflict = (_last(query, "on_conflict") or ",".join(table.primary_key)).split(",")
        changes = ", ".join(f"{quote(key)} = excluded.{quote(key)}" for key in keys)
        action = f"update set {changes}" if resolution == "merge-duplicates" else "nothing"
        text += f" on conflict ({', '.join(quote(key) for key in conflict)}) do {action}"
    return _returning(table, query, text), [_as_array(body)] if keys else []


def update(table: Table, query: Query, body: str) -> Statement:
    """Change the rows that the filters select."""
    parameters: list[Any] = [_as_array(body)]
    keys = _keys(table, body)
    changes = ", ".join(f"{quote(key)} = new_values.{quote(key)}" for key in keys)
    text = f"update {_name(table)} set {changes}"
    text += f" from (select * from json_populate_recordset(null::{_name(table)}, $1::json)) as new_values"
    text += _where(table, query, parameters)
    return _returning(table, query, text), parameters


def delete(table: Table, query: Query) -> Statement:
    """Delete the rows that the filters select."""
    parameters: list[Any] = []
    text = f"delete from {_name(table)}{_where(table, query, parameters)}"
    return _returning(table, query, text), parameters


def _returning(table: Table, query: Query, text: str) -> str:
    return (
        f"with changed as ({text} returning {_columns(table, query)}) "
        "select coalesce(json_agg(changed), '[]')::text, count(*) from changed"
    )


def _name(table: Table) -> str:
    return f"{quote(SCHEMA)}.{quote(table.name)}"


def _columns(table: Table, query: Query) -> str:
    wanted = (_last(query, "select") or "*").split(",")
    return ", ".join(f"{_name(table)}.{name.strip() if name == '*' else quote(name.strip())}" for name in wanted)


def _where(table: Table, query: Query, parameters: list[Any]) -> str:
    filters = [(key, value) for key, value in query if key not in _NOT_FILTERS]
    return (" where " + " and ".join(_filter(table, *f, parameters) for f in filters)) if filters else ""


def _filter(table: Table, key: str, value: str, parameters: list[Any]) -> str:
    column = f"{_name(table)}.{quote(key)}"
    parts = re.fullmatch(r"(not\.)?(\w+)\.(.*)", value, re.DOTALL)
    negation, operator, operand = parts.groups() if parts else ("", "", "")
    if operator == "is" and operand in ("null", "true", "false", "unknown"):
        condition = f"{column} is {operand}"
    elif operator == "in" and operand.startswith("(") and operand.endswith(")"):
        places = []
        for item in re.findall(r'"((?:[^"\\]|\\.)*)"|([^,]+)', operand[1:-1]):
            parameters.append(re.sub(r"\\(.)", r"\1", item[0]) or item[1])
            places.append(f"${len(parameters)}")
        condition = f"{column} in ({', '.join(places)})" if places else "false"
    elif operator in _OPERATORS:
        parameters.append(operand.replace("*", "%") if "like" in operator else operand)
        condition = f"{column} {_OPERATORS[operator]} ${len(parameters)}"
    else:
        details = "unexpected end of input expecting operator (eq, gt, ...)"
        raise RestError(400, "PGRST100", f'"failed to parse filter ({value})" (line 1, column 1)', details)
    return f"not ({condition})" if negation else condition


def _order(table: Table, query: Query) -> str:
    terms = []
    for term in (_last(query, "order") or "").split(","):
        if term:
            name, *directions = term.split(".")
            words = {"asc": "asc", "desc": "desc", "nullsfirst": "nulls first", "nullslast": "nulls last"}
            terms.append(" ".join([f"{_name(table)}.{quote(name)}", *(words[d] for d in directions if d in words)]))
    return f" order by {', '.join(terms)}" if terms else ""


def _last(query: Query, key: str) -> str | None:
    return next((value for name, value in reversed(query) if name == key), None)


def _keys(table: Table, body: str) -> list[str]:
    """The columns that the body gives; PGRST204 for one that the table does not have."""
    rows = json.loads(_as_array(body))
    keys = sorted({key for row in rows for key in row})
    for key in keys:
        if key not in table.columns:
            message = f"Could not find the '{key}' column of '{table.name}' in the schema cache"
            raise RestError(400, "PGRST204", message)
    return keys


def _as_array(body: str) -> str:
    try:
        value = json.loads(body)
    except ValueError:
        raise RestError(400, "PGRST102", "Empty or invalid json") from None
    return json.dumps(value if isinstance(value, list) else [value])
