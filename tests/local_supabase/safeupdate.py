"""What the extension pg-safeupdate refuses: UPDATE and DELETE without WHERE.

Supabase loads it for `authenticator`. It is a C library that neither the wheel nor Debian's PostgreSQL has,
so the stand-in finds such statements in the request's text with PostgreSQL's own parser. This is the one
thing that is emulated; the real library also sees statements inside functions, which `unqualified_writes`
finds as well, for tests.
"""

from __future__ import annotations

from typing import Any

import pglast
from pglast import ast, visitors
from pglast.parser import ParseError

# What stands before an UPDATE that is no statement.
_NOT_A_WRITE = ("DO", "ON", "FOR", "NO", "OR", "BEFORE", "AFTER", "OF")


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
        self.found += _in_plpgsql(next(part.arg.sval for part in node.args or () if part.defname == "as"))


def refusal(text: str) -> str | None:
    """The message of pg-safeupdate for the first statement it refuses in a text of SQL, or None.

    A text that does not parse is left to the server, which says what is wrong with it.
    """
    try:
        found = unqualified_writes(text, functions=False)
    except ParseError:
        return None
    return f"{found[0]} requires a WHERE clause" if found else None


def unqualified_writes(text: str, functions: bool = True) -> list[str]:
    """UPDATE or DELETE for each such statement without WHERE, with `functions` also in bodies of functions.

    Raises pglast.parser.ParseError for what does not parse, so that nothing is passed over.
    """
    finder = _Finder()
    statements = pglast.parse_sql(text)
    finder(statements)
    if functions:
        for statement in statements:
            if isinstance(statement.stmt, ast.CreateFunctionStmt):
                finder.found += _in_function(statement.stmt)
    return finder.found


def _in_function(statement: ast.CreateFunctionStmt) -> list[str]:
    options = {option.defname: option.arg for option in statement.options or ()}
    if "as" not in options or "language" not in options:
        return []
    body = options["as"][0].sval
    return unqualified_writes(body) if options["language"].sval == "sql" else _in_plpgsql(body)


def _in_plpgsql(body: str) -> list[str]:
    """By its tokens, because the parser that pglast has for PL/pgSQL does not know types of other schemas.

    A write reaches to the semicolon or closing parenthesis that ends it; its own WHERE is on the same level.
    """
    tokens = [token.name for token in pglast.parser.scan(body) if not token.name.endswith("_COMMENT")]
    found = []
    for place, name in enumerate(tokens):
        words = _same_level(tokens[place:])
        if name == "DELETE_P" and words[1:2] == ["FROM"]:
            kind, is_write = "DELETE", True
        else:
            # Not that of a lock, a trigger, a foreign key or an upsert.
            kind, is_write = (
                "UPDATE",
                name == "UPDATE" and tokens[place - 1] not in _NOT_A_WRITE and "SET" in words,
            )
        if is_write and "WHERE" not in words:
            found.append(kind)
    return found


def _same_level(tokens: list[str]) -> list[str]:
    """The tokens up to the end of the statement or subquery, without what is in parentheses."""
    depth, words = 0, []
    for name in tokens:
        depth += {"ASCII_40": 1, "ASCII_41": -1}.get(name, 0)
        if depth < 0 or name == "ASCII_59":
            break
        if depth == 0:
            words.append(name)
    return words
