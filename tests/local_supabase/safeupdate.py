"""What the extension pg-safeupdate refuses: UPDATE and DELETE without WHERE.

Supabase loads it for `authenticator`. It is a C library that neither the wheel nor Debian's PostgreSQL has,
so the stand-in finds such statements in the request's text with PostgreSQL's own parser. This is the one
thing that is emulated; the real library also sees statements inside functions, which `unqualified_writes`
finds as well, for tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pglast
from pglast import ast, visitors
from pglast.parser import ParseError
from pglast.stream import RawStream


class _Finder(visitors.Visitor):
    def __init__(self) -> None:
        self.found: list[str] = []

    def visit_UpdateStmt(self, _: Any, node: ast.UpdateStmt) -> None:
        if node.whereClause is None:
            self.found.append("UPDATE")

    def visit_DeleteStmt(self, _: Any, node: ast.DeleteStmt) -> None:
        if node.whereClause is None:
            self.found.append("DELETE")

    def visit_DoStmt(self, _: Any, node: ast.DoStmt) -> None:
        self.found += _in_plpgsql(node)


def refusal(text: str) -> str | None:
    """The message of pg-safeupdate for the first statement it refuses in a text of SQL, or None.

    A text that does not parse is left to the server, which says what is wrong with it.
    """
    found = unqualified_writes(text, functions=False)
    return f"{found[0]} requires a WHERE clause" if found else None


def unqualified_writes(text: str, functions: bool = True) -> list[str]:
    """UPDATE or DELETE for each such statement without WHERE, with `functions` also in bodies of created
    functions.
    """
    finder = _Finder()
    try:
        statements = pglast.parse_sql(text)
        finder(statements)
    except ParseError:
        return []
    if functions:
        for statement in statements:
            if isinstance(statement.stmt, ast.CreateFunctionStmt):
                finder.found += _in_function(statement.stmt)
    return finder.found


def _in_function(statement: ast.CreateFunctionStmt) -> list[str]:
    options = {option.defname: option.arg for option in statement.options or ()}
    if "as" not in options or "language" not in options:
        return []
    if options["language"].sval == "sql":
        return unqualified_writes(options["as"][0].sval)
    return _in_plpgsql(statement)


def _in_plpgsql(statement: ast.Node) -> list[str]:
    try:
        tree = pglast.parse_plpgsql(RawStream()(statement))
    except ParseError:
        return []
    return [found for query in _queries(tree) for found in unqualified_writes(query)]


def _queries(tree: Any) -> Iterator[str]:
    """Every SQL text in the tree of a PL/pgSQL function."""
    if isinstance(tree, dict):
        if "PLpgSQL_expr" in tree:
            yield tree["PLpgSQL_expr"].get("query", "")
        for value in tree.values():
            yield from _queries(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _queries(value)
