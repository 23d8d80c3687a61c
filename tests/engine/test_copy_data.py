"""Rows below a COPY that cannot become an INSERT; those that can are in tests/migration_files, compared with psql."""

from __future__ import annotations

import pytest
from rpc_migrations.copy_data import CannotBeInsertedError, as_insert
from rpc_migrations.sql_text import split


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("copy t (a) from stdin csv;\n1\n\\.\n", "it has the option csv"),
        ("copy t (a) from stdin with binary;\n", "it has the option binary"),
        ("copy t (a) from stdin where a > 1;\n1\n\\.\n", "it has the option where"),
        ("copy t (a) from stdin (format csv, header);\n1\n\\.\n", "it has the option format"),
        ("copy t (a) from stdin (delimiter E'\\t');\n1\n\\.\n", "it has the option delimiter"),
        ("copy t (a) from stdin (delimiter 'ab');\n1\n\\.\n", "its delimiter is not one that COPY takes"),
        ("copy t (a) from stdin (delimiter 'a');\n1\n\\.\n", "its delimiter is not one that COPY takes"),
        ("copy t (stdin) from '/tmp/rows';\n", "the rows do not come from stdin"),
        ("copy t (a) from stdin; select 1;\n1\n\\.\n", "more SQL stands behind it on its line"),
        ("copy t (a, b) from stdin;\n1\t2\n1\n\\.\n", "line 3 does not have as many values as there are columns"),
        ("copy t from stdin;\n1\t2\n1\n\\.\n", "line 3 does not have as many values as there are columns"),
        ("copy t (a) from stdin;\n1\t\n\\.\n", "line 2 does not have as many values as there are columns"),
        ("copy t (a)\nfrom stdin;\n1\\\n2\n\\.\n", "line 3 has a line break within a value"),
        ("copy t (a) from stdin;\n1\r\n2\n\\.\n", "line 2 has a line break within a value"),
        ("copy t (a) from stdin;\n\\303\\244\n\\.\n", "a byte is written by its number, 195"),
        ("copy t (a) from stdin;\n\\x0\n\\.\n", "a byte is written by its number, 0"),
        (
            "copy t (a, b) from stdin;\n" + "1\t2\n" * 125_001,
            "it would take about 250 MB of the server's memory; write it as several, each of at most 125000 rows",
        ),
    ],
)
def test_rows_that_cannot_be_inserted(text: str, reason: str) -> None:
    with pytest.raises(CannotBeInsertedError) as error:
        as_insert(split(text)[0])
    assert str(error.value) == reason


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("copy t from stdin;", ["insert into t overriding system value select  from t where false"]),
        (
            'copy s."T, (x)" ("a, b") from stdin; -- why\n\\.\nselect 1',
            ['insert into s."T, (x)" ("a, b") overriding system value select "a, b" from s."T, (x)" where false', None],
        ),
        ("copy t (a) from stdin;\n1\n", ["insert into t (a) overriding system value values\n('1')"]),
        ("copy t (a) from stdin;\r\n1\r\n\\.", ["insert into t (a) overriding system value values\n('1')"]),
        (
            "copy t from stdin;\n\\\\N\t\\N\t\n\\.\n",
            ["insert into t overriding system value values\n( E'\\\\N', null, '')"],
        ),
    ],
)
def test_where_rows_end(text: str, statements: list[str | None]) -> None:
    assert [as_insert(one) if one.data is not None else None for one in split(text)] == statements
