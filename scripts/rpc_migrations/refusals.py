"""What cannot run in a step, found by the first words of its statements before anything is sent.

A step is one transaction inside a function that runs with its owner's rights. So none of this is a matter of taste: the database
would refuse each of these in the middle of a run, or it would harm the session's next user.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from .copy_data import CannotBeInsertedError, as_insert
from .rewrites import OWNER, sets_role
from .sql_text import Statement, walk
from .transactions import kept_by_the_session

_DIRECTLY = "or run it by psql over a direct connection"
_OUTSIDE = f"It cannot run in a transaction, and a step is one. Leave it out here, {_DIRECTLY}."
_CONCURRENTLY = f"It cannot run in a transaction, and a step is one. Leave CONCURRENTLY out (writes to the table wait meanwhile), {_DIRECTLY}."
_OWN_STEP = "Each step is a transaction already: leave it out. If what follows needs a commit first, put a line `-- step: NAME` here: each step commits on its own."
_GONE = "psql's session would keep what line {} makes; here it is gone at a commit. Leave it out: without, the step is one transaction."
_UNDOES = "It undoes what stands above it, which would stay if this alone were left out. Leave out both; or, for a test or a trial, run the file by psql over a direct connection."
_ROLE = "The role cannot be changed here: everything runs as the owner of execute_sql, whom policies do not hold back. Leave it out if that is meant; `alter ... owner to` gives a thing to another role."
_PSQL = "Only psql knows it. Write what it does as SQL, or leave it out if nothing depends on it."
_INCLUDED = "Only psql knows it. Run the files themselves: run_migration.py takes several."
_VARIABLE = "Only psql knows it. Write its value."
_DEALLOCATE = (
    "This would deallocate the API's statements, too. Name your own; at the end of a step they are gone anyway."
)
_LIMIT = "A step has a limit of its own, which the function would keep. Write the value, or 0 for none."
_PATH = "It ends with its step, where with psql it would still hold in the next one. Begin the next step with it, too; or write `set local` if it is meant for one step."
_BESIDE_OURS = "Everything here is sent to public.execute_sql. Beside another one, the API could not tell which is meant. Give it another name, or another schema."
_DROPS_OURS = "That would be the one that this runs through. Name its parameters, as in `(text)`; remove_sql_function.py removes ours."
_COPY = "It goes through psql's own connection. Write the rows as INSERT (pg_dump --inserts does)."

_ENCODING = "The file is UTF-8, and psql would take its letters for others. Leave it out."
_LIKE_UTF_8 = ("UTF8", "UNICODE", "SQLASCII", "DEFAULT")

# The variables that psql sets by itself, by its manual, without those for its own behaviour.
_PSQL_VARIABLE = re.compile(
    r"""(?<!:):(?P<quote>['"]?)(?:DBNAME|ENCODING|HOST|PORT|USER|SERVER_VERSION_NAME|SERVER_VERSION_NUM|VERSION|VERSION_NAME"""
    r"""|VERSION_NUM|ROW_COUNT|SQLSTATE|ERROR|LAST_ERROR_MESSAGE|LAST_ERROR_SQLSTATE)(?P=quote)(?![\w$])"""
)
_PATH_SET_IN_BLOCK = re.compile(
    r"(;|\bbegin|\bthen|\belse|\bloop)\s+set\s+(session\s+)?search_path\b|\bset_config\s*\(\s*'search_path'[^;]*\bfalse\b",
    re.IGNORECASE,
)
_INCLUDES = ("\\i", "\\ir", "\\include", "\\include_relative")
_LIMITS = ("lock_timeout", "statement_timeout")
_MADE_OUTSIDE = ("database", "tablespace", "subscription")


@dataclass(frozen=True)
class Refusal:
    """One statement that cannot run: where it stands, what it is, and what to do instead."""

    line: int
    what: str
    instead: str


def refusals(statements: Sequence[Statement]) -> Iterator[Refusal]:
    """What cannot run of a step's statements, in their order."""
    for place, statement in enumerate(statements):
        if found := _refuse(statement) or _client_encoding(statements, place):
            what, instead = found
            if what in ("begin", "start transaction", "commit", "end") and (kept := kept_by_the_session(statements)):
                instead = _GONE.format(kept.line)
            yield Refusal(statement.line, what, instead)


def lost_search_path(statements: Sequence[Statement], later: Sequence[Statement], name: str) -> Iterator[Refusal]:
    """A search_path that a step sets for its session, if none of the statements that the next step, called `name`, begins with sets its own."""
    settings = [(one, is_set) for one in statements if (is_set := _sets_search_path(one)) is not None]
    if settings and settings[-1][1] and all(_sets_search_path(one) is None for one in later):
        yield Refusal(settings[-1][0].line, f'a search_path that step "{name}" would not have', _PATH)


def _sets_search_path(statement: Statement) -> bool | None:
    """Whether it sets the session's search_path, or resets it; None: neither."""
    words = statement.words(12)
    if words[0] == "reset":
        return False if words[1:2] in (["search_path"], ["all"]) else None
    if words[0] == "set":
        name, value = (words[2:3], words[3:]) if words[1:2] == ["session"] else (words[1:2], words[2:])
        return None if name not in (["search_path"], ["schema"]) else value[-1:] != ["default"]
    if words[0] == "do":
        return True if _PATH_SET_IN_BLOCK.search(statement.sql) else None
    return True if words[0] == "select" and "set_config" in words and {"'search_path'", "false"} <= set(words) else None


def _refuse(statement: Statement) -> tuple[str, str] | None:
    """What a statement is and what to do instead, if it cannot run."""
    (first,) = statement.words(1)
    if first.startswith("\\"):
        command = statement.sql.split()[0]
        return f"psql command {command}", _INCLUDED if command in _INCLUDES else _COPY if command == "\\copy" else _PSQL
    if variable := _psql_variable(statement.sql):
        return f"psql's variable {variable}", _VARIABLE
    if first == "copy" and statement.data is not None:
        return _copy(statement)
    if first in ("create", "drop") and (found := _execute_sql(statement.words(10))):
        return found
    rule = _RULES.get(first)
    return rule(statement.words()) if rule else None


def _psql_variable(sql: str) -> str | None:
    """A variable that psql sets by itself. (Others need a psql command, which is found by itself.)"""
    for found in _PSQL_VARIABLE.finditer(sql):
        place = found.start()
        kind = next(kind for kind, start, end, _ in walk(sql) if start <= place < end)
        if kind == "other":
            return found[0]
    return None


def _copy(statement: Statement) -> tuple[str, str] | None:
    """COPY with the rows below it, if it cannot become an INSERT."""
    try:
        as_insert(statement)
    except CannotBeInsertedError as error:
        return f"copy between database and client, which cannot become an INSERT: {error}", _COPY
    return None


def _transaction_command(words: list[str]) -> tuple[str, str] | None:
    """BEGIN, COMMIT and the like; but not PREPARE of a statement."""
    if words[0] == "prepare":
        return ("prepare transaction", _OWN_STEP) if words[1:2] == ["transaction"] else None
    if words[0] in ("rollback", "abort"):
        return words[0], _UNDOES
    return "start transaction" if words[0] == "start" else words[0], _OWN_STEP


def _deallocate(words: list[str]) -> tuple[str, str] | None:
    """DEALLOCATE ALL, which also drops what PostgREST has prepared in this session: its requests there would fail."""
    return ("deallocate all", _DEALLOCATE) if words[-1] == "all" else None


def _setting(words: list[str]) -> tuple[str, str] | None:
    """Settings that a function cannot change, or that change what a text means."""
    if found := sets_role(words):
        what, role = found
        return None if role in ("", OWNER) else (f"{words[0]} {what}", _ROLE)
    name = words[2:] if words[1:2] in (["local"], ["session"]) else words[1:]
    if name[:1] in (["transaction"], ["transaction_isolation"], ["transaction_deferrable"]):
        return (
            "set transaction",
            "The transaction has begun, and is read committed. Leave it out; `lock table` keeps others out where that matters.",
        )
    if name[:1] == ["standard_conforming_strings"] and not _is_on(name[2:3]):
        return "standard_conforming_strings = off", "Write strings with backslashes as E'...', and leave it out."
    return None


def _client_encoding(statements: Sequence[Statement], place: int) -> tuple[str, str] | None:
    """Another encoding than that in which the file is read, with characters below that are not the same in both."""
    value = _encoding_set(statements[place])
    if value is None or re.sub(r"[^A-Z0-9]", "", value.upper()) in _LIKE_UTF_8:
        return None
    concerned = takewhile(lambda one: _encoding_set(one) is None, statements[place + 1 :])
    if all(one.sql.isascii() and (one.data or "").isascii() for one in concerned):
        return None
    return f"client_encoding = {value}", _ENCODING


def _encoding_set(statement: Statement) -> str | None:
    """What a SET or RESET of client_encoding gives it; None: it is none."""
    words = statement.words(6)
    if words[:2] in (["reset", "client_encoding"], ["reset", "all"]):
        return "default"
    setting = words[2:] if words[1:2] in (["local"], ["session"]) else words[1:]
    is_one = words[0] == "set" and setting[:1] in (["client_encoding"], ["names"]) and len(setting) > 1
    return setting[-1] if is_one else None


def _is_on(value: list[str]) -> bool:
    """Whether a setting is given as true, in any of PostgreSQL's spellings, or as its default, which is true."""
    return bool(value) and value[0].strip("'") in ("on", "true", "yes", "1", "default")


def _outside_a_transaction(words: list[str]) -> tuple[str, str] | None:
    """What PostgreSQL only runs outside of transactions; and COPY to and from the client."""
    first, second, last = words[0], (words[1:2] or [""])[0], words[-1]
    what = None
    if first in ("create", "drop") and "index" in words[1:3]:
        return (f"{first} index concurrently", _CONCURRENTLY) if "concurrently" in words[:4] else None
    if first in ("create", "drop") and second in _MADE_OUTSIDE:
        what = f"{first} {second}"
    elif first == "reindex":
        if "concurrently" in words:
            return "reindex concurrently", _CONCURRENTLY
        of_what = words[words.index(")") + 1 :] if second == "(" else words[1:]
        what = f"reindex {of_what[0]}" if of_what[:1] in (["database"], ["system"], ["schema"]) else None
    elif first == "alter" and second == "table" and "detach" in words and last == "concurrently":
        return "detach partition concurrently", _CONCURRENTLY
    elif first == "copy":
        return ("copy between database and client", _COPY) if {"stdin", "stdout"} & set(words) else None
    elif first == "cluster" and words[1:] in ([], ["verbose"]):
        what = "cluster of all tables"
    elif first == "vacuum" or (first, second) in (("alter", "system"), ("discard", "all")):
        what = first if first == "vacuum" else f"{first} {second}"
    return (what, _OUTSIDE) if what else None


def _execute_sql(words: list[str]) -> tuple[str, str] | None:
    """Another function execute_sql in public, or DROP of one without its parameters."""
    kind = next(
        (place for place, word in enumerate(words[:4]) if word in ("function", "procedure", "routine")), len(words)
    )
    name = [word.strip('"') for word in words[kind + 1 :]]
    name = name[2:] if name[:2] == ["if", "exists"] else name
    name = name[2:] if name[:2] == ["public", "."] else name
    if name[:1] != ["execute_sql"] or (words[0] == "drop" and name[1:2] == ["("]):
        return None
    return f"{words[0]} {words[kind]} execute_sql", _BESIDE_OURS if words[0] == "create" else _DROPS_OURS


def _definition(words: list[str]) -> tuple[str, str] | None:
    """A function, role or database that would keep a timeout of ours; and what only runs outside of transactions."""
    for place in range(len(words) - 3):
        if (
            words[place] == "set"
            and words[place + 1] in _LIMITS
            and words[place + 2 : place + 4] == ["from", "current"]
        ):
            return f"set {words[place + 1]} from current", _LIMIT
    return _outside_a_transaction(words)


_RULES: dict[str, Callable[[list[str]], tuple[str, str] | None]] = {
    **dict.fromkeys(
        ("begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release", "prepare"),
        _transaction_command,
    ),
    **dict.fromkeys(("set", "reset"), _setting),
    "deallocate": _deallocate,
    **dict.fromkeys(("create", "alter"), _definition),
    **dict.fromkeys(("drop", "reindex", "vacuum", "cluster", "copy", "discard"), _outside_a_transaction),
}
