"""A rebuild written as ALTER TABLE: a line `-- rebuild: public.orders`, and below it nothing but ALTER TABLE on that table.

Accepted is what the copy can do with the same result as psql; everything else is refused with its line. The statements themselves
are run by the database, on a twin of the table (see db/rpc_migrations/08b_rebuild.sql).
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .errors import StepFileError
from .sql import quote_identifier, quote_literal
from .sql_text import Statement, meaningful, split, walk

REBUILD_LINE = re.compile(
    r"""--\s*rebuild:\s*(?P<table>.*?)(?:\s+backup\s+(?P<backup>("[^"]*"|[^\s"])+))?\s*""", re.IGNORECASE
)
_OR_A_COMMENT = "; or, if that line is only a comment, start it with another word"
_MOST_BYTES = 63  # of a name
_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_$]*")
_NO_COLUMN = ("constraint", "unique", "primary", "foreign", "check", "exclude", "not")  # what else ADD may add
_SERIAL = re.compile(r"(small|big)?serial[248]?")
_MOMENTS = ("now", "current_timestamp", "current_date", "current_time", "localtimestamp", "localtime", "clock_timestamp",
            "statement_timestamp", "transaction_timestamp", "timeofday")  # fmt: skip
# Actions of ALTER COLUMN that leave values alone, so that they may follow ADD COLUMN in the same block.
_HARMLESS = ("set not null", "drop not null", "set default", "drop default", "set statistics", "set storage", "set compression",
             "set (", "reset (")  # fmt: skip
_OF_A_SEQUENCE = ("set generated", "set increment", "set minvalue", "set maxvalue", "set no", "set start", "set cache",
                  "set cycle")  # fmt: skip
_COLUMN_ACTIONS = (
    *_HARMLESS,
    *_OF_A_SEQUENCE,
    "add generated",
    "drop identity",
    "set expression",
    "set data type",
    "type",
)
_TABLE_ACTIONS = (
    "add", "drop", "alter", "rename", "validate constraint", "set (", "reset (", "cluster on", "set without cluster", "replica identity",
    "enable row level security", "disable row level security", "force row level security", "no force row level security",
    "enable trigger", "disable trigger", "enable replica trigger", "enable always trigger",
)  # fmt: skip
_SMALL = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_INSTEAD = "Write it into a step before or after the rebuild"


@dataclass
class Rebuild:
    """A block of a file: the table, its backup, and what follows the table's name in each ALTER TABLE."""

    schema: str
    table: str
    backup: str
    statements: tuple[Statement, ...]
    alterations: list[str] = field(default_factory=list)
    conversions: dict[str, str] = field(default_factory=dict)  # column: expression
    added: set[str] = field(default_factory=set)  # columns
    typed: set[str] = field(default_factory=set)  # columns that get another type
    unnumbered: set[str] = field(default_factory=set)  # columns that lose their identity

    @property
    def name(self) -> str:
        """The table with its schema, as SQL writes it."""
        return f"{_quoted(self.schema)}.{_quoted(self.table)}"

    def steps(self) -> Iterator[tuple[str, str, bool]]:
        """The steps of the rebuild: name, SQL, and whether it is a batch step."""
        for name, sql, is_batch in (
            ("begin the copy", self._begin(), False),
            ("copy the rows", "select * from rpc_migrations.copy_batch();", True),
            ("carry over constraints and indexes", "select * from rpc_migrations.carry_over();", True),
            ("gather statistics", "select rpc_migrations.gather_statistics();", False),
            ("replay what changed", "select * from rpc_migrations.replay();", True),
            ("compare the old and the new table", "select * from rpc_migrations.compare();", False),
            ("swap the tables", "select * from rpc_migrations.swap();", True),
            ("validate the foreign keys", "select * from rpc_migrations.validate_foreign_keys();", True),
        ):
            yield name, f"{sql}\n", is_batch

    def former_texts(self) -> dict[str, str]:
        """Earlier texts of steps with the same effect, by the step's name."""
        return {"gather statistics": f"analyze rpc_migrations.{_quoted(self.table)};\n"}

    def _begin(self) -> str:
        texts = ",\n".join(f"        {quote_literal(text)}" for text in self.alterations)
        conversions = f",\n    conversions => {quote_literal(json.dumps(self.conversions))}" if self.conversions else ""
        backup = f"{_quoted(self.schema)}.{_quoted(self.backup)}"
        return (
            f"select * from rpc_migrations.begin_rebuild(\n    {quote_literal(self.name)},\n    backup => {quote_literal(backup)},\n"
            f"    alterations => array[\n{texts}\n    ]{conversions}\n);"
        )


def read_rebuild(path: Path, line: int, table: str, backup: str | None, text: str, *, first_line: int) -> Rebuild:
    """Read the block of a file. `line`: the line that begins it. Raises StepFileError, with the line, for anything that is not
    accepted.
    """
    name = _names(table)
    if name is None or len(name) != 2:
        raise StepFileError(
            f"{path}, line {line}: `{table}` is not the name of a table with its schema.",
            hint=f"Write for example `-- rebuild: public.orders`{_OR_A_COMMENT}.",
        )
    kept = _names(backup) if backup else [name[0], f"{_shortened(name[1])}_backup"]
    if kept is None or len(kept) > 2 or (len(kept) == 2 and kept[0] != name[0]):
        raise StepFileError(
            f"{path}, line {line}: the backup stays in the schema of the table.",
            hint="Write for example `-- rebuild: public.orders backup orders_before`.",
        )
    rebuild = Rebuild(name[0], name[1], kept[-1], tuple(split(text, first_line=first_line)))
    if not rebuild.statements:
        raise StepFileError(
            f"{path}, line {line}: the rebuild has no ALTER TABLE.", hint=f"Write it below the line{_OR_A_COMMENT}."
        )
    for place, statement in enumerate(rebuild.statements):
        _Reader(path, rebuild, statement).read(is_first=place == 0)
    return rebuild


def is_name(text: str) -> bool:
    """Whether a text is one name, with a schema or without."""
    return _names(text) is not None


def quoted_table(text: str) -> str | None:
    """The name of a table with its schema, quoted for SQL; None if it is not one."""
    name = _names(text)
    return ".".join(_quoted(part) for part in name) if name and len(name) == 2 else None


def _names(text: str) -> list[str] | None:
    """The parts of a qualified name, as PostgreSQL reads it; None if it is not one."""
    parts: list[str] = []
    wants_name = True
    for kind, start, end, _ in walk(text):
        piece = text[start:end]
        if wants_name and kind in ("word", "quoted") and not piece.lower().startswith("u&"):
            parts.append(_unquoted(piece))
        elif wants_name or piece != ".":
            return None
        wants_name = not wants_name
    return None if wants_name else parts


def _unquoted(token: str) -> str:
    """A name as PostgreSQL reads it: unquoted, its ASCII letters become lower case."""
    return token[1:-1].replace('""', '"') if token.startswith('"') else token.translate(_SMALL)


def _quoted(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) else quote_identifier(name)


def _shortened(name: str) -> str:
    return name.encode()[: _MOST_BYTES - len("_backup")].decode(errors="ignore")


@dataclass(frozen=True)
class _Word:
    """A token other than white space and comments: as it stands, in lower case for keywords, and its place in the statement."""

    text: str
    word: str
    start: int
    end: int


class _Reader:
    """Reads one statement of a rebuild into the Rebuild."""

    def __init__(self, path: Path, rebuild: Rebuild, statement: Statement) -> None:
        self._path, self._rebuild, self._statement = path, rebuild, statement
        self._sql = statement.sql
        self._words: list[_Word] = []
        for kind, start, end, _ in meaningful(self._sql):
            pieces = re.finditer(r"[\[\],.]|[^\[\],.]+", self._sql[start:end]) if kind == "other" else None
            for piece in pieces or ():
                self._words.append(_Word(piece[0], piece[0], start + piece.start(), start + piece.end()))
            if pieces is None:
                text = self._sql[start:end]
                self._words.append(_Word(text, text.lower() if kind == "word" else text, start, end))

    def read(self, *, is_first: bool) -> None:
        """Read the statement. `is_first`: it is the first of the block."""
        words = self._words
        if unicode := next((one.text for one in words if one.text[:3].lower() == 'u&"'), None):
            self._refuse(f"`{unicode}`", "Write the name itself")
        if [one.word for one in words[:2]] != ["alter", "table"]:
            self._refuse(
                f"`{' '.join(one.text for one in words[:3])}`",
                "Only ALTER TABLE may stand below the line `-- rebuild:`. Put the rest below a line `-- step: NAME`; or, if the rebuild line is only a "
                "comment, start it with another word",
            )
        place = 2
        for optional in (["if", "exists"], ["only"]):
            if [one.word for one in words[place : place + len(optional)]] == optional:
                place += len(optional)
        begins = place
        while place + 1 < len(words) and words[place + 1].word == ".":
            place += 2
        name = _names("".join(one.text for one in words[begins : place + 1]))
        own = self._rebuild
        if name not in ([own.table], [own.schema, own.table]):
            self._refuse("another table than the one that is rebuilt", _INSTEAD)
        rest = words[place + 1 :]
        if rest and rest[0].word == "*":
            rest = rest[1:]
        if not rest:
            self._refuse("an ALTER TABLE that says nothing", "Write what it alters")
        for action in _actions(rest):
            self._take(action, is_first=is_first)
        own.alterations.append(self._without_schemas_of_sequences(rest))

    def _without_schemas_of_sequences(self, rest: Sequence[_Word]) -> str:
        """The statement behind the table's name. An identity column that names its sequence with the schema would be looked for in the table
        of that schema, not in the twin; without it the sequence is made beside its table, where it has to be anyway.
        """
        pieces, begin = [], rest[0].start
        for place, one in enumerate(rest[:-4]):
            schema, dot, name = rest[place + 2 : place + 5]
            if (one.word, rest[place + 1].word, dot.word) == ("sequence", "name", "."):
                if _names(schema.text) != [self._rebuild.schema]:
                    self._refuse(
                        f"a sequence in schema {schema.text}", "An identity column has it in the schema of its table"
                    )
                pieces.append(self._sql[begin : schema.start])
                begin = name.start
        return "".join([*pieces, self._sql[begin:]])

    def _take(self, action: Sequence[_Word], *, is_first: bool) -> None:
        """Read one action of the statement."""
        said = " ".join(one.word for one in action)
        if len(action) < 2 or not any(f"{said} ".startswith(f"{form} ") for form in _TABLE_ACTIONS):
            self._refuse(f"`{_shown(action)}`", _INSTEAD)
        words = [one.word for one in action]
        match words[0]:
            case "add":
                self._take_addition(action)
            case "drop" if words[1:2] != ["constraint"]:
                self._refuse_added(_column(action, 1, ("column", "if", "exists")), action)
            case "rename":
                self._take_renaming(action)
            case "alter" if words[1:2] != ["constraint"]:
                self._take_column(action, is_first=is_first)
            case "enable" | "disable" if words[-2:] == ["trigger", "all"]:
                self._refuse(f"`{_shown(action)}`", "Name the triggers, or write USER")

    def _take_addition(self, action: Sequence[_Word]) -> None:
        words = [one.word for one in action]
        if words[1] in _NO_COLUMN:
            return
        name = _column(action, 1, ("column", "if", "not", "exists"))
        if any(_SERIAL.fullmatch(word) for word in words):
            self._refuse("a serial column", "Write `bigint generated by default as identity`")
        if "identity" in words and "restart" in words[words.index("identity") :]:
            self._refuse(f"`{_shown(action)}`", "Write `start` in place of `restart`")
        self._rebuild.added.add(name)

    def _take_renaming(self, action: Sequence[_Word]) -> None:
        words = [one.word for one in action]
        if words[1:2] == ["to"]:
            self._refuse("`rename to`", _INSTEAD)
        if words[1:2] == ["constraint"]:
            return
        self._refuse_added(_column(action, 1, ("column",)), action)

    def _take_column(self, action: Sequence[_Word], *, is_first: bool) -> None:
        """Read ALTER COLUMN, of which it must be known what it does to the values."""
        place = 2 if action[1].word == "column" and len(action) > 2 else 1
        name, said = _unquoted(action[place].text), " ".join(one.word for one in action[place + 1 :])
        if not any(f"{said} ".startswith(f"{form} ") for form in _COLUMN_ACTIONS):
            self._refuse(f"`{_shown(action)}`", _INSTEAD)
        self._take_identity(action, name, said)
        if not said.startswith(_HARMLESS):
            self._refuse_added(name, action)
        if not said.startswith(("set data type", "type")):
            return
        if name in self._rebuild.typed:
            self._refuse(f"a second type for column {name}", "Write only the last one")
        self._rebuild.typed.add(name)
        if (using := _place_of(action, "using")) is None:
            return
        if not is_first:
            self._refuse(
                "USING in a second ALTER TABLE",
                "Write it into the first one of the rebuild, where it reads the old row",
            )
        if moment := next((one.word for one in action[using:] if one.word in _MOMENTS), None):
            self._refuse(f"`{moment}` in USING", "Its value changes from call to call. Write the value itself")
        self._rebuild.conversions[name] = self._sql[action[using + 1].start : action[-1].end]

    def _take_identity(self, action: Sequence[_Word], name: str, said: str) -> None:
        """Refuse what says where a sequence goes on: at the swap it gets the place of the one in use."""
        if said.startswith(_OF_A_SEQUENCE) and "restart" in said.split():
            self._refuse(f"`{_shown(action)}`", _INSTEAD)
        if said.startswith("add generated") and "restart" in said.split():
            self._refuse(f"`{_shown(action)}`", "Write `start` in place of `restart`")
        if said.startswith("drop identity"):
            self._rebuild.unnumbered.add(name)
        elif said.startswith("add generated") and name in self._rebuild.unnumbered:
            self._refuse(
                f"`{_shown(action)}` behind DROP IDENTITY",
                "Alter the identity with `set generated` and its options, or write this into a step after the rebuild",
            )

    def _refuse_added(self, name: str, action: Sequence[_Word]) -> None:
        if name in self._rebuild.added:
            self._refuse(
                f"`{_shown(action)}` on a column that the rebuild adds",
                "Add it the way it should end up, or write this into a step after the rebuild",
            )

    def _refuse(self, what: str, instead: str) -> None:
        raise StepFileError(
            f"{self._path}, line {self._statement.line}: {what} cannot be part of a rebuild.",
            hint=f"{instead}. Nothing was sent.",
        )


def _column(action: Sequence[_Word], place: int, optional: Sequence[str]) -> str:
    """The name at a place in an action, after any of the optional words."""
    for word in optional:
        if place + 1 < len(action) and action[place].word == word:
            place += 1
    return _unquoted(action[min(place, len(action) - 1)].text)


def _place_of(action: Sequence[_Word], word: str) -> int | None:
    """The place of a word outside of parentheses; None if there is none, or nothing follows it."""
    depth = 0
    for place, one in enumerate(action):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(one.word, 0)
        if depth == 0 and one.word == word and place + 1 < len(action):
            return place
    return None


def _actions(words: Sequence[_Word]) -> Iterator[list[_Word]]:
    """The actions of an ALTER TABLE, divided by commas outside of parentheses and brackets."""
    depth = 0
    action: list[_Word] = []
    for one in words:
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(one.word, 0)
        if depth == 0 and one.word == ",":
            yield action
            action = []
        else:
            action.append(one)
    yield action


def _shown(action: Sequence[_Word]) -> str:
    words = " ".join(one.text for one in action)
    return words if len(words) <= 60 else f"{words[:57]}..."
