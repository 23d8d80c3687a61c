"""Statements that are sent differently from how they are written, because here they would mean something else than in psql, or be refused.

They run inside a PL/pgSQL function, in sessions of an API that loads pg-safeupdate. Line breaks stay where they are, so that the
places of errors are those in the file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from .copy_data import as_checked_insert
from .sql_text import Statement, Token, meaningful, split, unquoted

# All of this counts as one statement of the step, so that the places of errors are those in the file.
_BODY_UNSEEN = (
    "select pg_catalog.set_config('rpc_migrations.bodies', pg_catalog.current_setting('check_function_bodies'), true);\n"
    "set local check_function_bodies = off;\n{};\n"
    "select pg_catalog.set_config('check_function_bodies', pg_catalog.current_setting('rpc_migrations.bodies'), true)"
)

_MAY_CATCH = re.compile(r"\bexception\b", re.IGNORECASE)
_SEES_TO_LOCKS = re.compile(r"\b(lock_not_available|55P03|nowait|lock_timeout)\b", re.IGNORECASE)

OWNER = "postgres"  # of execute_sql on Supabase, and whom psql connects as
_IS_OWNER = f"""do $role$ begin if current_user <> '{OWNER}' then
    raise exception using errcode = '42501', message = pg_catalog.format('everything here runs as %s, not as {OWNER}', current_user),
        hint = 'Leave it out, or have {OWNER} own execute_sql.';
end if; end $role$"""

# What may stand before a statement in PL/pgSQL.
_BEGINS_A_STATEMENT = (";", "begin", "then", "else", "loop", "in", ">>")


def as_run(statement: Statement) -> str:
    """The statement as it is sent: as it is written, with these exceptions.

    SELECT INTO has another meaning in PL/pgSQL, so it becomes CREATE TABLE AS. COPY ... FROM stdin, which needs psql's own connection,
    becomes an INSERT. An UPDATE or DELETE without WHERE, also in a DO block, gets `where true`: pg-safeupdate refuses it without. An SQL
    function that has one in its body is created without a check of the body, because pg-safeupdate refuses that as well. And a DO block
    must not catch that a lock was not to be had within our own short timeout: psql would have waited. SET ROLE to the role that everything
    runs as only has to make sure of that.
    """
    (first,) = statement.words(1)
    if first in ("select", "with", "("):
        return _with_where(_without_into(statement.sql))
    if first in ("update", "delete", "explain", "prepare") or (first == "create" and "table" in statement.words(4)):
        return _with_where(statement.sql)
    if first == "copy" and statement.data is not None:
        return as_checked_insert(statement)
    if first == "do":
        return _block_as_run(statement.sql)
    if first == "create" and _is_function_that_writes_without_where(statement.words()):
        return _BODY_UNSEEN.format(statement.sql)
    return _without_role(statement) if first in ("set", "reset") else statement.sql


def _without_role(statement: Statement) -> str:
    """A SET or RESET; if it is about the role, what makes sure that this is the role already."""
    found = sets_role(statement.words(6))
    if found is None:
        return statement.sql
    return _IS_OWNER if found[1] == OWNER else "do $role$ begin end $role$"


def sets_role(words: list[str]) -> tuple[str, str] | None:
    """What a SET or RESET of a role is called, and the role; "" for that of the session. None: it is about something else."""
    name = words[2:] if words[1:2] in (["local"], ["session"]) and words[2:3] != ["authorization"] else words[1:]
    if name[:1] == ["role"]:
        what, value = "role", name[1:]
    elif name[:2] == ["session", "authorization"]:
        what, value = "session authorization", name[2:]
    elif name[:1] == ["session_authorization"]:
        what, value = "session authorization", name[1:]
    else:
        return None
    value = value[1:] if value[:1] in (["to"], ["="]) else value
    role = " ".join(value).strip("'\"")
    return what, "" if value in ([], ["default"]) or role == "none" else role


def _without_into(sql: str) -> str:
    """A query, as CREATE TABLE AS if it is a SELECT INTO (also in parentheses).

    The INTO of an INSERT or a MERGE after a WITH does not count, nor does a column called "into".
    """
    before, opened = "", 0  # the parentheses that the first SELECT stands in
    tokens = meaningful(sql)
    for _, start, end, depth in tokens:
        text = sql[start:end].lower()
        if text == "(" and not before:
            opened += 1
            continue
        if depth < opened:
            return sql
        if text == "into" and depth == opened and before not in ("as", "insert", "merge") and before[-1:] != ".":
            kind, name, place = _table_of_into(sql, list(tokens))
            return f"create {kind} table {name} as {sql[:start]}{sql[place:]}" if name else sql
        before = text
    return sql


def _table_of_into(sql: str, tokens: Sequence[Token]) -> tuple[str, str, int]:
    """What stands behind the INTO of a SELECT: the kind of table that it makes, its name, and where that ends. The name is empty if there
    is none.
    """
    texts = [sql[start:end].lower() for _, start, end, _ in tokens]
    is_name = [kind in ("word", "quoted") for kind, *_ in tokens]
    kind, first = "", 0
    for optional in (("local", "global"), ("temporary", "temp", "unlogged"), ("table",)):
        if texts[first : first + 1] and texts[first] in optional and is_name[first + 1 : first + 2] == [True]:
            kind = texts[first] if "temp" in optional else kind
            first += 1
    if is_name[first : first + 1] != [True]:
        return "", "", 0
    last = first
    while texts[last + 1 : last + 2] == ["."] and is_name[last + 2 : last + 3] == [True]:
        last += 2
    end = tokens[last][2]
    return kind, sql[tokens[first][1] : end], end


def _with_where(sql: str, *, in_block: bool = False) -> str:
    """A statement, or PL/pgSQL, with `where true` added to every UPDATE and DELETE that has no WHERE."""
    tokens = [
        (sql[start:end].lower() if kind == "word" else sql[start:end], end) for kind, start, end, _ in meaningful(sql)
    ]
    words = [word for word, _ in tokens]
    pieces, place = [], 0
    for number, word in enumerate(words):
        if word in ("update", "delete") and _begins_a_write(words, number, in_block=in_block):
            write = _up_to_its_end(words, number)
            if "where" not in _same_level(write):
                end = tokens[number + len(write) - 1][1]
                pieces.append(sql[place:end] + " where true")
                place = end
    return "".join([*pieces, sql[place:]])


def _block_as_run(sql: str) -> str:
    """A DO statement. If its block is PL/pgSQL between dollar quotes, its writes get a WHERE, and it does not catch our lock timeout."""
    tokens = list(meaningful(sql))
    words = [sql[start:end] for _, start, end, _ in tokens]
    languages = [after.strip("'\"").lower() for before, after in pairwise(words) if before.lower() == "language"]
    blocks = [(start, end) for kind, start, end, _ in tokens if kind == "string" and sql[start] == "$"]
    if languages not in ([], ["plpgsql"]) or len(blocks) != 1:
        return sql
    start, end = blocks[0]
    tag = sql.index("$", start + 1) + 1 - start
    block = _without_catching_our_timeout(_with_where(sql[start + tag : end - tag], in_block=True))
    return sql[: start + tag] + block + sql[end - tag :]


def _without_catching_our_timeout(block: str) -> str:
    """PL/pgSQL whose exception handlers pass lock_not_available on; unchanged if the block deals with locks itself."""
    if not _MAY_CATCH.search(block) or _SEES_TO_LOCKS.search(block):
        return block
    tokens = [(block[start:end].lower(), end) for _, start, end, _ in meaningful(block)]
    pieces, place = [], 0
    for (before, _), (word, end), (after, _) in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if before in (";", "begin") and word == "exception" and after == "when":
            pieces.append(block[place:end] + " when lock_not_available then raise;")
            place = end
    return "".join([*pieces, block[place:]])


def _is_function_that_writes_without_where(words: list[str]) -> bool:
    """Whether a CREATE makes a function in SQL whose body, a string, has an UPDATE or DELETE without WHERE."""
    if not {"function", "procedure"} & set(words[1:4]):
        return False
    languages = [after.strip("'\"").lower() for before, after in pairwise(words) if before == "language"]
    bodies = [after for before, after in pairwise(words) if before == "as" and after[-1:] in ("'", "$")]
    if languages != ["sql"] or len(bodies) != 1:
        return False
    return any(_with_where(one.sql) != one.sql for one in split(unquoted(bodies[0])))


def _begins_a_write(words: list[str], place: int, *, in_block: bool) -> bool:
    """Whether the UPDATE or DELETE at `place` is a statement, not part of an upsert, a MERGE or a FOR UPDATE, nor a column's name."""
    before = words[max(place - 2, 0) : place]
    is_first = not before or before[-1] in (")", "explain", "analyze", "verbose")
    if words[0] == "prepare":
        is_first = before[-1] in (")", "as")
    if in_block:
        is_first = bool(before) and before[-1] in _BEGINS_A_STATEMENT
    if not (is_first or before in (["as", "("], ["materialized", "("])):
        return False
    if words[place] == "delete":
        return words[place + 1 : place + 2] == ["from"]
    return words[place + 1 : place + 2] != ["set"] and "set" in _same_level(_up_to_its_end(words, place))


def _up_to_its_end(words: list[str], begin: int) -> list[str]:
    """The words of the UPDATE or DELETE at `begin` up to its RETURNING, or its end."""
    depth = 0
    for place in range(begin, len(words)):
        depth += {"(": 1, ")": -1}.get(words[place], 0)
        if depth < 0 or (depth == 0 and words[place] in ("returning", ";")):
            return words[begin:place]
    return words[begin:]


def _same_level(words: Sequence[str]) -> list[str]:
    """The words that stand in no parentheses."""
    depth, found = 0, []
    for word in words:
        depth += {"(": 1, ")": -1}.get(word, 0)
        if depth == 0:
            found.append(word)
    return found
