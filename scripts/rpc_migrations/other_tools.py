"""Migration files written for another tool. What that tool would skip, run in another order, or has run already, must not run here silently.

Such a file has comments, or a name, that mean something to that tool. If it is plain SQL all the same, it runs as it is; if part of it
is a way back, a condition or a variable, or if the order is not that of the names, it is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from .refusals import Refusal
from .sql_text import split, walk

# A comment line that begins the way back: a tool's own mark, or one word that says so.
_WAY_BACK = re.compile(
    r"--\W*(migrate:\s*(down|rollback)\b.*|(?<=\+)\w+\s+down\b.*|rambler\s+down\b.*|create above / drop below\b.*"
    r"|(down|downs|undo|revert|rollback)(\s+migration)?\W*)",
    re.IGNORECASE,
)
_ANOTHER_MEANING = {
    re.compile(r"--\s*liquibase\s+formatted\s+sql\b.*", re.IGNORECASE): (
        "Its conditions are only comments here: write what is to be run as plain SQL (its command update-sql does)."
    ),
    re.compile(r"--\s*atlas:txtar\b.*", re.IGNORECASE): (
        "Its checks and its way back would be run as well: keep the SQL of the migration alone."
    ),
    re.compile(
        r"--\s*\+goose\s+envsub\s+on\b.*", re.IGNORECASE
    ): "Write the values of the variables, and leave it out.",
}
_MAY_HAVE_A_MARK = re.compile(
    r"^[ \t]*--.*\b(downs?|undo|revert|rollback|drop below|liquibase|atlas:txtar|envsub)\b",
    re.IGNORECASE | re.MULTILINE,
)
_INTO_A_COMMENT = "This looks like the way back: put it into a comment `/* rollback: ... */`, which --rollback runs. If it is to run now, reword that line."
_A_VALUE = "Write its value. If the text is meant as it is, give the file another name."
# What may stand before and after the migration itself.
_BEGINS, _ENDS = ("begin", "start", "set"), ("commit", "end", "notify")

_NOT_COMPARED = dict.fromkeys(map(ord, " \t\n\r\f\v;\ufeff"))

_VERSIONED = re.compile(r"V(?P<number>\d+([._]\d+)*)__", re.IGNORECASE)
_NUMBERED = re.compile(r"(?P<number>\d+([._-]\d+)*)(?P<letter>[a-zA-Z]?)(?![^\W_])")  # 005b comes between 005 and 006
_DATE = re.compile(r"(19|20)\d{6,12}")
_VARIABLE = re.compile(r"\$\{[\w.:-]+\}")
_WAY_BACK_WORD = re.compile(r"(?:^|(?<=[._-]))(down|undo|revert|rollback)(?=[._-])", re.IGNORECASE)
_WAYS_THERE = ("up", "do", "deploy", "apply")


def noted_text(path: Path) -> str:
    """The SHA-256 of a file's text without white space and semicolons, as rpc_migrations.history has that of noted statements."""
    return hashlib.sha256(_text(path).translate(_NOT_COMPARED).encode()).hexdigest()


def noted_pieces(path: Path) -> list[str]:
    """The text of which noted_text is the SHA-256, divided into statements; what follows the last one is left out."""
    text = _text(path)
    ends = [0, *(one.end for one in split(text))]
    return [text[start:end].translate(_NOT_COMPARED) for start, end in pairwise(ends)]


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")


def marks(name: str, text: str, first_line: int) -> Iterator[Refusal]:
    """What in the text of a file called `name` another tool would not run, or not as it stands."""
    if _VERSIONED.match(name):
        yield from _variables(text, first_line)
    if not _MAY_HAVE_A_MARK.search(text):
        return
    for kind, start, end, depth in walk(text):
        if kind != "line_comment" or depth or text[text.rfind("\n", 0, start) + 1 : start].strip():
            continue
        comment, line = text[start:end].strip(), first_line + text.count("\n", 0, start)
        for mark, instead in _ANOTHER_MEANING.items():
            if mark.fullmatch(comment):
                yield Refusal(line, f"`{comment}`, which means something to another tool only", instead)
        if (
            _WAY_BACK.fullmatch(comment)
            and _does_something(text[:start], _BEGINS)
            and _does_something(text[end:], _ENDS)
        ):
            yield Refusal(line, f"`{comment}`, and below it SQL that would be run as well", _INTO_A_COMMENT)


def _does_something(text: str, but_for: tuple[str, ...]) -> bool:
    return any(one.words(1)[0] not in but_for for one in split(text))


def _variables(text: str, first_line: int) -> Iterator[Refusal]:
    """Variables in strings and quoted names; anywhere else they are a syntax error."""
    if not _VARIABLE.search(text):
        return
    for kind, start, end, _ in walk(text):
        if kind in ("string", "quoted", "dollar") and (found := _VARIABLE.search(text, start, end)):
            line = first_line + text.count("\n", 0, found.start())
            yield Refusal(line, f"the variable {found[0]} of the tool that names its files like this", _A_VALUE)


def ways_back(names: Iterable[str]) -> list[str]:
    """The files that their names make the way back of a migration: x.down.sql, 001.undo.x.sql; and beside the migration itself x_down.sql
    and 001_down_x.sql.
    """
    names = list(names)
    known = {name.lower() for name in names}

    def is_one(name: str) -> bool:
        for word in _WAY_BACK_WORD.finditer(name):
            before, after = name[: word.start()].lower(), name[word.end() :].lower()
            if before.endswith(".") and (after == ".sql" or (before[:-1].isdigit() and after.startswith("."))):
                return True
            there = {before[:-1] + after, *(f"{before}{way}{after}" for way in _WAYS_THERE)}
            if not known.isdisjoint(there):
                return True
        return False

    return [name for name in names if is_one(name)]


def without_number(names: Iterable[str]) -> list[str]:
    """The files whose names do not begin with a number, if those of others do."""
    names = list(names)
    missing = [name for name in names if _number(name) is None]
    return missing if len(missing) < len(names) else []


def out_of_order(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two neighbours, in the order of names, whose numbers are in another order or leave it open. Behind words, as in
    migration_10.sql, numbers tell an order only where they are counted from the first one on: fix_issue_1023.sql says nothing.
    """
    named = [(name, *_behind_words(name)) for name in sorted(names)]
    counting = {"", *(words for _, words, number in named if number and number[0][0] <= 1)}
    for (one, words, first), (other, others, second) in pairwise(named):
        if words != others or words not in counting or not (first and second):
            continue
        if first[0] > second[0] or (first[0] == second[0] and first[1] != second[1]):
            return one, other
    return None


def _behind_words(name: str) -> tuple[str, tuple[tuple[int, ...], str] | None]:
    """The words in front of the first number of a file's name, and that number."""
    words = re.split(r"(?=\d)", name, maxsplit=1)[0]
    return ("", found) if (found := _number(name)) else (words.lower(), _number(name[len(words) :]))


def _number(name: str) -> tuple[tuple[int, ...], str] | None:
    """The number that a file's name begins with, in parts, and how it is written; None if there is none. A date counts as its
    first moment.
    """
    found = _VERSIONED.match(name) or _NUMBERED.match(name)
    if not found:
        return None
    digits = re.split(r"[._-]", found["number"])
    numbers = [int(one.ljust(14, "0") if _DATE.fullmatch(one) else one) for one in digits]
    letters = [ord(one.lower()) for one in found.groupdict().get("letter") or ""]
    return (*numbers, *letters), found["number"]
