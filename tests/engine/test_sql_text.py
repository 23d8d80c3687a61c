"""Statements are found where PostgreSQL's own scanner and parser find them."""

from __future__ import annotations

import pglast
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pglast.parser import ParseError
from rpc_migrations.sql_text import COMMENTS, split, walk

# What a scanner can be wrong about, to be put together in any order.
PIECES = [
    "'", "''", "'a'", "'a;'", "E'", "e'\\''", "E'\\\\'", "\\'", "U&'", "U&'\\0041;'", "N'x'", "B'01'", "X'ff'", '"', '"a;"', '""', 'U&"a"',
    "$$", "$$;$$", "$a$", "$a$;$a$", "$a", "a$", "a$$b", "$1", "$é$", "$é$;$é$", "--", "-- ;\n", "/*", "*/", "/* ; */", "/* /* ; */ */",
    "*", "/", "-", "->", "->>", "@-", "(", ")", ";", "\n", "\r\n", "\r", " ", "\t", "\f", "e", "E", "u&", "é", "\u2028", "\u00a0", "1", "1.5",
    "0xff", "a", "select", "as", ".", ",", ":", "::", "begin", "atomic", "case", "end", "create", "function", "or", "replace",
]  # fmt: skip
MARKS = {"ASCII_40": "(", "ASCII_41": ")", "ASCII_59": ";"}


def scanned(text: str) -> list[tuple[str, int, int]]:
    """Name, start and end of PostgreSQL's tokens."""
    return [(token.name, token.start, token.end + 1) for token in pglast.parser.scan(text)]


def parsed(text: str) -> list[str]:
    """The statements of PostgreSQL's parser, each from its first token to its last."""
    tokens = [token for token in scanned(text) if not token[0].endswith("_COMMENT")]
    found = []
    for part in pglast.split(text, only_slices=True):
        inside = [(start, end) for name, start, end in tokens if part.start <= start < part.stop]
        found.append(text[inside[0][0] : inside[-1][1]])
    return found


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
@example("E'a'\n'b\\';'")
@example("E'a' -- ;'\n -- '\n'\\';'")
@example("E'\\'")
@example("''-- ;\n''")
@example("''--")
@example("'a'\n-- b\n;")
@example("'a'\n--'b'")
@example("'a'\n'b\\';'")
@example("$a$ $a $$ $b$a$;")
@example("/*/ ; */;")
@example("a$$;$$")
@example("1$$;$$")
@example("'\u2028;'")
def test_marks_and_comments_are_where_the_scanner_finds_them(text: str) -> None:
    found = list(walk(text))
    assert [start for _, start, _, _ in found] == [0, *(end for _, _, end, _ in found)][:-1]
    assume(all(kind not in ("command", "data") for kind, *_ in found))
    try:
        expected = scanned(text)
    except ParseError as error:
        assume("unterminated" in str(error))
        assert found[-1][0] == "open"
        return
    assert all(kind != "open" for kind, *_ in found)
    assert [(start, end) for kind, start, end, _ in found if kind in COMMENTS] == [
        (start, end) for name, start, end in expected if name.endswith("_COMMENT")
    ]
    assert [(start, text[start]) for kind, start, _, _ in found if kind == "mark"] == [
        (start, MARKS[name]) for name, start, _ in expected if name in MARKS
    ]


STATEMENTS = [
    "select 1",
    "select ';'",
    "select $$;$$, $a$;$$;$a$",
    "select E'\\';', ';'\n';'",
    'select 1 as ";"',
    "select (1) -- ;\n",
    "select /* ; /* ; */ ; */ 1",
    "create function f() returns int language sql as $f$ select 1; select 2; $f$",
    "create function f() returns int begin atomic select 1; select case when true then 1 else 2 end; end",
    "create or replace procedure p() begin atomic insert into t values (1); delete from t where id = 1; end",
    "create function f(r tstzrange) returns int begin atomic select 1 as end; select (case 1 when 1 then 2 end); select r.end from r; end",
    "create rule r as on insert to t do also (insert into u values (1); insert into v values (1))",
    "begin",
    "end",
    "create table begin (atomic int, c text default ';')",
    "do $$ begin perform 1; end $$",
    "create function begin() returns int language sql return 1",
    "create policy p on t using (case when true then (select auth.uid()) is not null end)",
    "insert into t values ('U+2028: \u2028;', U&'\\0061;', N';', B'01', X'ff')",
]  # fmt: skip


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_statement_is_whole(statement: str) -> None:
    text = f"-- ;\nselect 0;;\n{statement};/* ; */ select 9"
    assert [one.sql for one in split(text)] == parsed(text)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(STATEMENTS), min_size=1, max_size=8).map(";\r\n".join))
def test_statements_are_what_the_parser_finds(text: str) -> None:
    assert [one.sql for one in split(text)] == parsed(text)


def test_lines_are_those_of_the_first_words() -> None:
    text = "\n-- a\nselect\n1\n; select 2;\n/*\n*/ select 3;\n\n'x'"
    assert [(one.line, one.sql) for one in split(text, first_line=10)] == [
        (12, "select\n1"), (14, "select 2"), (16, "select 3"), (18, "'x'"),
    ]  # fmt: skip


def test_words_are_what_a_statement_begins_with() -> None:
    (one,) = split('CREATE /* or */ Unique INDEX -- x\n "Big" on t(a)')
    assert one.words(4) == ["create", "unique", "index", '"Big"']
    assert one.words() == ["create", "unique", "index", '"Big"', "on", "t", "(", "a", ")"]


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("\\set x ';'\nselect 1;", ["\\set x ';'", "select 1"]),
        ("select 1 \\gset\nselect 2;", ["select 1", "\\gset", "select 2"]),
        ("\\restrict abc\nselect 1;\n\\unrestrict abc\n", ["select 1"]),
        ("\\echo 'a \\n b'\n\\set ON_ERROR_STOP 1\nselect 1; \\dt+ public.*\nselect 2", ["select 1", "select 2"]),
        ("\\echo Use CREATE EXTENSION. \\quit\nselect 1", ["\\echo Use CREATE EXTENSION. \\quit", "select 1"]),
        (
            "\\echo `rm x`\n\\set ON_ERROR_STOP off\n\\encoding latin1",
            ["\\echo `rm x`", "\\set ON_ERROR_STOP off", "\\encoding latin1"],
        ),
        ("select 1\n\\echo x\n;", ["select 1", "\\echo x"]),
        ("select E'\\n', '\\n';", ["select E'\\n', '\\n'"]),
        ("copy t from stdin;\n1\t;'\n\\.\nselect 1;", ["copy t from stdin", "select 1"]),
        ("COPY t (a) FROM STDIN WITH (format csv);\r\n;\n\\.", ["COPY t (a) FROM STDIN WITH (format csv)"]),
        ("copy t from stdin;", ["copy t from stdin"]),
        ("copy t from stdin;\n1", ["copy t from stdin"]),
        ("select 'open; select 2;", ["select 'open; select 2;"]),
        ("select (1; select 2;", ["select (1; select 2;"]),
        ("select 1); select 2;", ["select 1)", "select 2"]),
        ("", []),
        (" ;; -- x\n;/**/", []),
    ],
)
def test_what_psql_alone_knows(text: str, statements: list[str]) -> None:
    """Commands of psql, data of COPY, and what PostgreSQL would not take."""
    assert [one.sql for one in split(text)] == statements
