"""Names and values that want to break out of their quotes come back from PostgreSQL as they went in."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_supabase import Cluster
from rpc_migrations.sql import dollar_quote, quote_identifier, quote_literal

TEXTS = [
    "plain",
    "",
    "it's",
    "''",
    "'; drop table x; --",
    "\\'; drop table x; --",
    "back\\slash",
    "\\",
    "E'\\x27",
    'double "quotes"',
    "$$ $step$ $1",
    "line\nbreak\r\n\ttab",
    "/* -- */",
    "%s %(name)s %%",
    "ünï ✓ \U0001f600 \u2028\u0085\x0c",
    "\ufeff",
]
NAMES = ["order", "Mixed Case", 'a"b', '""', "it's", "semi;colon", "dot.ted", " ", "$step$", "--", "ü\u2028", "x" * 63]
# PostgreSQL holds no NUL, and no half of a surrogate pair.
any_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Iterator[psycopg.Connection[Any]]:
    """A connection; it sends the text as it is, as execute_sql does."""
    with cluster.connect() as connection:
        yield connection


def answer(server: psycopg.Connection[Any], sql: str) -> Any:
    """The one value that a statement answers."""
    row = server.execute(sql.encode()).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize("conforming", ["on", "off"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back(server: psycopg.Connection[Any], text: str, conforming: str) -> None:
    with server.transaction():
        server.execute(f"set local standard_conforming_strings = {conforming}".encode())
        server.execute("set local escape_string_warning = off")
        assert answer(server, f"select {quote_literal(text)}::text") == text
        assert answer(server, f"select {quote_literal(text)}::text||'end'") == text + "end"


@settings(max_examples=200, deadline=None)
@given(text=any_text)
def test_any_text_comes_back(server: psycopg.Connection[Any], text: str) -> None:
    assert answer(server, f"select {quote_literal(text)}::text") == text
    assert answer(server, f"select {dollar_quote(text)}::text") == text


@pytest.mark.parametrize("name", NAMES)
def test_a_name_names_a_column_and_nothing_else(server: psycopg.Connection[Any], name: str) -> None:
    cursor = server.execute(f"select 1 as {quote_identifier(name)}".encode())
    assert cursor.description is not None
    assert [column.name for column in cursor.description] == [name]


@pytest.mark.parametrize(
    "text", ["$step", "a $step", "$step$", "$step$ $step1$", "$step1", "$", "$step$step", "", "$step$\n"]
)
def test_dollar_quotes_end_where_the_text_ends(server: psycopg.Connection[Any], text: str) -> None:
    assert answer(server, f"select {dollar_quote(text)}::text || 'end'") == text + "end"


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "text"), (True, "boolean"), (False, "boolean"), (0, "bigint"), (-(2**63), "bigint"), (0.1, "double precision"),
        (1e300, "double precision"), (-0.25, "double precision"), (math.inf, "double precision"),
        (-math.inf, "double precision"), (uuid.UUID(int=7), "uuid"),
    ],
)  # fmt: skip
def test_a_value_comes_back(server: psycopg.Connection[Any], value: Any, kind: str) -> None:
    assert answer(server, f"select cast({quote_literal(value)} as {kind})") == value


def test_not_a_number_comes_back(server: psycopg.Connection[Any]) -> None:
    assert math.isnan(answer(server, f"select {quote_literal(math.nan)}::double precision"))


@pytest.mark.parametrize("name", ["", "\0", "a\0b"])
def test_names_that_no_database_holds_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="PostgreSQL"):
        quote_identifier(name)


def test_a_text_with_a_nul_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        quote_literal("a\0b")
