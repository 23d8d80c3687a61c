"""The transactions that a file spells out. A step is one already: a BEGIN and COMMIT around it say nothing new, and a COMMIT in the middle
of a step ends it there, so that what follows is a step of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .sql_text import Statement

# A transaction as each step is one anyway, spelled out or not.
_PLAIN_BEGIN = re.compile(
    "(begin( work| transaction)?|start transaction)"
    "(( ,)? (isolation level read (un)?committed|read write|(not )?deferrable))*"
)
_PLAIN_END = re.compile("(commit|end)( work| transaction)?( and no chain)?")
# To take statements apart takes as long as all else that is done with a file. (In PL/pgSQL no semicolon follows a BEGIN.)
_MAY_COMMIT = re.compile(r"\bcommit\b|\b(begin|start)(\s+(work|transaction))?\s*;", re.IGNORECASE)

# What may stand behind the COMMIT: NOTIFY is sent at the commit wherever it stands, and the others look at what was made.
_BEHIND_THE_COMMIT = ("notify", "select", "values", "table", "show", "explain", "analyze", "analyse")

# What a session keeps beyond its transaction, and the next step would lack. (A SET that stands alone is run again there.)
_KEPT = re.compile(
    r"create (or replace )?(local |global )?temp(orary)? (?!.*\bon commit drop\b).*|create [\w ]*\bpg_temp \. .*|select .*\binto (local |global )?temp(orary)? .*"
    r"|prepare (?!transaction\b).*|declare .*\bwith hold\b.*",
    re.DOTALL,
)


def without_transaction(statements: Sequence[Statement]) -> tuple[Statement, ...]:
    """The statements without the BEGIN and the COMMIT at the end that make them what a step is already: a transaction. (To a COMMIT
    without BEGIN psql only says that there is no transaction.)

    If they are anything else, nothing is left out, and refusals.py says so.
    """
    begins = [one for one in statements if one.words(1)[0] in ("begin", "start")]
    ends = [one for one in statements if one.words(1)[0] not in _BEHIND_THE_COMMIT][-1:]
    if len(begins) <= 1 and all(_is(one, _PLAIN_BEGIN) for one in begins) and ends and _is(ends[0], _PLAIN_END):
        return tuple(one for one in statements if one not in (*begins, *ends))
    return tuple(statements)


def may_commit(text: str) -> bool:
    """Whether a text may have a COMMIT, without a look at its statements."""
    return _MAY_COMMIT.search(text) is not None


def commits(statements: Sequence[Statement]) -> list[Statement]:
    """The COMMITs at which the statements of one step are to be divided; none if what follows could depend on what its session has made."""
    if kept_by_the_session(statements):
        return []
    found, does_something = [], False
    for one in statements:
        if not _is(one, _PLAIN_END):
            does_something |= one.words(1)[0] not in ("begin", "start")
        elif does_something:
            found.append(one)
            does_something = False
    if found and all(one.words(1)[0] in _BEHIND_THE_COMMIT for one in statements if one.end > found[-1].end):
        found.pop()
    return found


def kept_by_the_session(statements: Sequence[Statement]) -> Statement | None:
    """The first statement that makes something which its session keeps beyond the transaction, and the next step would lack."""
    return next((one for one in statements if _is(one, _KEPT)), None)


def session_settings(statements: Sequence[Statement]) -> Iterator[Statement]:
    """The statements that set something for the session, which holds behind the COMMIT as well."""
    for one in statements:
        words = one.words(12)
        is_set = words[0] in ("set", "reset") and words[1:2] not in (["local"], ["constraints"], ["transaction"])
        if is_set or (words[0] == "select" and "set_config" in words and "false" in words):
            yield one


def _is(statement: Statement, words: re.Pattern[str]) -> bool:
    ends_late = not {"temp", "temporary"}.isdisjoint(
        statement.words(3)
    )  # with ON COMMIT DROP, behind its columns or query
    return words.fullmatch(" ".join(statement.words(None if ends_late else 20))) is not None
