"""What the extension pg-safeupdate refuses: UPDATE and DELETE without WHERE.

Supabase loads it for `authenticator`. It is a C library that neither the wheel nor Debian's PostgreSQL has, so this is
emulated. The library looks at every statement after its parse analysis, also inside functions; PostgreSQL can be told
to send the result of each parse analysis to the client (debug_print_parse), and there we look at the same thing. Two
differences remain. The library stops the statement, and a function may catch that error; we can only refuse the request
as a whole, when it is done, so that where several steps share a request the first of them is blamed. And a function that
has its statements as `begin atomic … end` is not looked at by the library, and is by us.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pglast
from pglast import ast, visitors
from pglast.parser import ParseError
from psycopg import AsyncConnection
from psycopg.errors import Diagnostic

# These make a session send what `Watch` looks at.
SETTINGS = (("debug_print_parse", "on"), ("debug_pretty_print", "off"), ("client_min_messages", "log"))

_WRITES = {"2": "UPDATE", "4": "DELETE"}  # PostgreSQL's CmdType
_IS_WRITE = re.compile(rf":commandType\s+[{''.join(_WRITES)}]\b")
# In a node tree a backslash goes before every brace and space that is part of a name or a text.
_NODES = re.compile(
    r"\\.|\{(?P<kind>\w*)|(?P<end>\})|:commandType\s+(?P<command>\d+)|:quals\s+(?P<no_quals><>)", re.DOTALL
)
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


class Watch:
    """The first statement, if any, that pg-safeupdate refuses while `on` a session with the SETTINGS."""

    def __init__(self) -> None:
        self.refusal: str | None = None

    @contextmanager
    def on(self, connection: AsyncConnection[Any]) -> Iterator[None]:
        """Within it every statement is seen."""
        connection.add_notice_handler(self._look)
        try:
            yield
        finally:
            connection.remove_notice_handler(self._look)

    def _look(self, message: Diagnostic) -> None:
        if self.refusal is None and message.message_primary == "parse tree:":
            self.refusal = refused(message.message_detail or "")


def refused(tree: str) -> str | None:
    """The message of pg-safeupdate for a statement, given as the node tree that PostgreSQL prints of it, or None."""
    if not _IS_WRITE.search(tree):
        return None  # most statements are none, and to walk a tree takes longer than to run them
    nodes: list[list[str | None]] = [
        ["", None]
    ]  # those around the place: each with its kind and, of a Query, its command
    for match in _NODES.finditer(tree):
        if match["kind"] is not None:
            nodes.append([match["kind"], None])
        elif match["end"]:
            nodes.pop()
        elif match["command"]:
            nodes[-1][1] = match["command"]
        elif match["no_quals"] and nodes[-1][0] == "FROMEXPR" and nodes[-2][1] in _WRITES:
            return _message(_WRITES[nodes[-2][1]])
    return None


def refusal_unseen(body: bytes) -> str | None:
    """As `refusal`, for the texts in a request (JSON) that turns off the messages by which statements are seen."""
    return _in_value(json.loads(body)) if b"client_min_messages" in body else None


def _in_value(value: Any) -> str | None:
    if isinstance(value, str):
        return refusal(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, map(_in_value, parts)), None)


def refusal(text: str) -> str | None:
    """The message of pg-safeupdate for the first statement it refuses in a text of SQL, or None.

    A text that does not parse is left to the server, which says what is wrong with it.
    """
    try:
        found = unqualified_writes(text, functions=False)
    except ParseError:
        return None
    return _message(found[0]) if found else None


def _message(command: str) -> str:
    return f"{command} requires a WHERE clause"


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
