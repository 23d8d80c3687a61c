"""Quoting for SQL text. The one place where a value or a name becomes part of a statement."""

from __future__ import annotations

import itertools
import math
import uuid


def quote_identifier(name: str) -> str:
    """Return `name` as an SQL identifier. Raises ValueError for what PostgreSQL could not hold: empty, or with a NUL."""
    if not name or "\0" in name:
        raise ValueError("not a name that PostgreSQL can hold")
    return '"' + name.replace('"', '""') + '"'


def quote_literal(value: str | int | float | bool | uuid.UUID | None) -> str:
    """Return `value` as an SQL literal, independent of standard_conforming_strings. Raises ValueError for a NUL."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value) if math.isfinite(value) else f"'{value}'"
    text = str(value)
    if "\0" in text:
        raise ValueError("PostgreSQL holds no text with a NUL")
    quoted = "'" + text.replace("'", "''") + "'"
    return " E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def dollar_quote(text: str) -> str:
    """Return `text` unchanged between dollar quotes that do not occur in it, nor begin in it (`... $step`)."""
    tag = next(t for n in itertools.count() if (t := f"$step{n or ''}$") not in text + t[:-1])
    return f"{tag}{text}{tag}"
