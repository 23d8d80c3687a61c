"""Splits SQL into statements as psql does, knowing no more of SQL than where strings and comments end.

The rules are those of PostgreSQL's scan.l and psql's psqlscan.l: standard_conforming_strings is on, a backslash outside of
quotes begins a psql command, and a semicolon ends a statement unless it is in parentheses or in a function's body that
begins with BEGIN ATOMIC. A string that never ends is not an error here: the last statement reaches to the end of the text,
and the server says what is wrong with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

# Everything beyond ASCII is a letter. Written as an exclusion, because Python takes 20 ms to compile a range up to the last character.
_LETTER = r"[^\x00-@\[-^`{-\x7f]"
_LETTER_OR_DIGIT = r"[^\x00-/:-@\[-^`{-\x7f]"
_IDENTIFIER = rf"{_LETTER}[^\x00-#%-/:-@\[-^`{{-\x7f]*+"  # a dollar as well
NAME = rf"""(?:{_IDENTIFIER}|"(?:[^"]|"")+")"""  # quoted or not
_ESCAPED = r"'(?:[^'\\]++|\\.|'')*+'"
_PLAIN = r"'(?:[^']++|'')*+'"
# A string continues after a line break, also one that ends a comment. A group that may fail half-way is not possessive: Python 3.11.0 to
# 3.11.4, Debian's among them, would go on from where it failed (github.com/python/cpython/issues/106052).
_GOES_ON = r"(?:[ \t\f\v]|--[^\n\r]*+)*[\n\r](?:[ \t\n\r\f\v]++|--[^\n\r]*+[\n\r])*"
_TOKEN = re.compile(
    rf"""
      (?P<space>[ \t\n\r\f\v]++)
    | (?P<line_comment>--[^\n\r]*+)
    | (?P<block_comment>/\*)
    | (?P<string>[eE]{_ESCAPED}(?:{_GOES_ON}{_ESCAPED})* | (?:[nNbBxX]|[uU]&)?{_PLAIN}(?:{_GOES_ON}{_PLAIN})*)
    | (?P<quoted>(?:[uU]&)?"(?:[^"]++|"")*+")
    | (?P<opened>[eE]?'|")
    | (?P<dollar>\$(?:{_LETTER}{_LETTER_OR_DIGIT}*+)?\$)
    | (?P<word>{_IDENTIFIER})
    | (?P<number>[0-9][A-Za-z0-9_.]*+ | \$[0-9]++)
    | (?P<command>\\[^\n\r]*+)
    | (?P<mark>[();])
    | (?P<other>[\x00-\x08\x0e-\x1f!#%&*+,.:<=>?@\[\]^`{{|}}~\x7f]++ | .)
    """,
    re.VERBOSE | re.DOTALL,
)
_UNENDED = ("dollar", "block_comment", "opened")  # known by how they begin; _whole tells where they end
_OPERATOR_CHARACTERS = "+-*/<>=~!@#%^&|`?:"
_OPERATOR_OR_MARK = re.compile(r"[-+*/<>=~!@#%^&|`?:]+|.", re.DOTALL)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_COPY_END = re.compile(r"^\\\.[ \t\r]*$\n?", re.MULTILINE)
# What psql prints, how it prints, and what it does anyway; of its own settings those that mean nothing else. (pg_dump writes `\restrict`
# around a dump; it concerns psql commands alone.) Nothing behind it on the line may be another command, or one of the shell's.
_FOR_PSQL_ALONE = re.compile(
    r"""\\ (?:
        (?:un)?restrict | q?echo | warn | timing | pset | [axtCfHT?] | d[A-Za-z]*\+? S?\+? | [lz]S?\+? | s[fv]\+? | h | conninfo | errverbose
        | encoding (?=[ \t]+'?(?i:utf-?8|unicode)\b)
        | set [ \t]+ ON_ERROR_STOP (?=[ \t]*(?:$|'?(?i:on|true|yes|1)\b))
        | (?:un)?set [ \t]+ (?:ECHO|ECHO_HIDDEN|QUIET|VERBOSITY|SHOW_CONTEXT|PROMPT[123]|HIDE_\w+)
    ) (?![\w+]) (?: [^\\'`] | '[^'`]*' )* \Z""",
    re.VERBOSE,
)


# A piece of a text: its kind (the name of a group of _TOKEN, "open" for what does not end, "data" for COPY's), where it
# starts and ends, and how many parentheses and BEGIN ATOMIC are open around it. A plain tuple: there are millions.
Token = tuple[str, int, int, int]
COMMENTS = ("line_comment", "block_comment")
_MEANINGLESS = ("space", *COMMENTS)
_BETWEEN = ("data", *_MEANINGLESS)


@dataclass(frozen=True)
class Statement:
    """One statement, or one psql command, from its first word to its last; the semicolon is not part of it."""

    sql: str
    line: int  # of its first word in the text, counted from 1
    end: int  # where in the text it ends, with its semicolon
    data: str | None = None  # what stands below a COPY ... FROM stdin

    def words(self, limit: int | None = None) -> list[str]:
        """Its words, marks and values in order, without comments; words that are not quoted in lower case."""
        return [
            self.sql[start:end].lower() if kind == "word" else self.sql[start:end]
            for kind, start, end, _ in islice(meaningful(self.sql), limit)
        ]


def split(text: str, *, first_line: int = 1) -> list[Statement]:
    """The statements of a text, in order. `first_line`: the number of the text's first line in its file."""
    statements: list[Statement] = []
    line, counted = first_line, 0
    begins: int | None = None
    ends = 0

    def add(end: int) -> None:
        nonlocal line, counted, begins
        if begins is not None:
            line += text.count("\n", counted, begins)
            counted = begins
            statements.append(Statement(text[begins:ends], line, end))
            begins = None

    for kind, start, end, depth in walk(text):
        if kind == "data":
            statements[-1] = replace(statements[-1], end=end, data=text[start:end])
        if kind in _BETWEEN:
            continue
        if kind == "command":
            if begins is None and _FOR_PSQL_ALONE.match(text[start:end]):
                continue
            add(ends)
            begins, ends = start, end
            add(end)
        elif kind == "mark" and depth == 0 and text[start] == ";":
            add(end)
        else:
            begins, ends = start if begins is None else begins, end
    add(ends)
    return statements


def canonical(text: str) -> str:
    """The text without comments and with uniform white space: equal for two texts that PostgreSQL reads as the same tokens.

    Strings are kept as they are, function bodies in strings among them.
    """
    pieces: list[str] = []
    place = -1  # where the last piece ended
    for kind, start, end, _ in meaningful(text):
        is_one = kind != "other" or end - start == 1
        found = [text[start:end]] if is_one else _OPERATOR_OR_MARK.findall(text, start, end)
        if place == start and pieces[-1][0] in _OPERATOR_CHARACTERS and found[0][0] in _OPERATOR_CHARACTERS:
            pieces[-1] += found.pop(0)  # "-" and "/" come alone, because they may begin a comment
        pieces += found
        place = end
    while pieces[-1:] == [";"]:
        pieces.pop()
    return " ".join(pieces)


def with_plain_line_ends(text: str) -> str:
    """The text with \\n for every line end."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def unquoted(string: str) -> str:
    """The content of a string literal, without its quotes; escapes are resolved only roughly."""
    if string.startswith("$"):
        tag = string.index("$", 1) + 1
        return string[tag:-tag]
    prefix, _, body = string[:-1].partition("'")
    return (re.sub(r"\\(.)", r"\1", body) if prefix in ("e", "E") else body).replace("''", "'")


def meaningful(text: str) -> Iterator[Token]:
    """The tokens of a text, in order, without white space and comments."""
    return (token for token in walk(text) if token[0] not in _MEANINGLESS)


def walk(text: str) -> Iterator[Token]:
    """All tokens of a text, in order, with nothing left out."""
    place = parentheses = 0
    length = len(text)
    body = _Body()
    while place < length:
        match = _TOKEN.match(text, place)
        assert match is not None and match.lastgroup is not None
        kind, end = match.lastgroup, match.end()
        if kind in _UNENDED:
            kind, end = _whole(text, match)
        elif kind == "word" and not body.is_settled:
            body.take(match[0].lower(), in_parentheses=parentheses > 0)
        elif kind == "mark" and text[place] == ")":
            parentheses = max(parentheses - 1, 0)
        yield (kind, place, end, parentheses + body.depth)
        if kind == "mark":
            if text[place] == "(":
                parentheses += 1
            elif text[place] == ";" and not parentheses and not body.depth:
                if body.is_copy_from_stdin:
                    data, end = end, _end_of_copy_data(text, end)
                    yield ("data", data, end, 0)
                body = _Body()
        if not body.is_settled and kind not in _BETWEEN:
            body.previous = match[0]
        place = end


class _Body:
    """Whether a statement makes a function, and how deep in that function's BEGIN ATOMIC we are."""

    def __init__(self) -> None:
        self.depth = 0
        self.previous = ""
        self.is_settled = False  # neither a function nor a COPY: nothing that follows makes a difference
        self._words: list[str] = []  # the first ones of the statement; all of a COPY

    @property
    def is_copy_from_stdin(self) -> bool:
        """Whether lines of data follow the statement."""
        return self._words[:1] == ["copy"] and "stdin" in self._words

    def take(self, word: str, *, in_parentheses: bool) -> None:
        """Take the next word of the statement. BEGIN ATOMIC opens a block, and so does CASE within it; END closes either."""
        if len(self._words) < 4 or self._words[0] == "copy":
            self._words.append(word)
            self.is_settled = len(self._words) == 4 and self._words[0] != "copy" and not self._makes_a_function()
        if (
            in_parentheses
            or not (self.depth or self._makes_a_function())
            or self.previous[-1:] == "."
            or self.previous.lower() == "as"
        ):
            return
        if (word == "atomic" and self.previous.lower() == "begin") or (self.depth and word == "case"):
            self.depth += 1
        elif self.depth and word == "end":
            self.depth -= 1

    def _makes_a_function(self) -> bool:
        words = self._words[:1] + self._words[3:] if self._words[1:3] == ["or", "replace"] else self._words
        return words[:1] == ["create"] and words[1:2] in (["function"], ["procedure"])


def _end_of_copy_data(text: str, place: int) -> int:
    """Where the data lines of a COPY end; the COPY itself ends at `place`."""
    first_line = text.find("\n", place) + 1 or len(text)
    end = _COPY_END.search(text, first_line)
    return end.end() if end else len(text)


def _whole(text: str, opening: re.Match[str]) -> tuple[str, int]:
    """Kind and end of the token with this opening: a dollar-quoted string, a block comment, or one that never ends."""
    if opening.lastgroup == "dollar":
        closing = text.find(opening[0], opening.end())
        return ("string", closing + len(opening[0])) if closing >= 0 else ("open", len(text))
    if opening.lastgroup == "block_comment":
        depth = 1
        for edge in _COMMENT_EDGE.finditer(text, opening.end()):
            depth += 1 if edge[0] == "/*" else -1
            if depth == 0:
                return "block_comment", edge.end()
    return "open", len(text)
