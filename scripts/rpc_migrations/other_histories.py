"""What other tools have applied, by their own tables. Each knows a migration by something else, and says in a way of its own that one has
failed, was undone, or is covered by a later one. What cannot be told from that is said, rather than guessed.

A file only counts as a tool's if it is named or written the way that tool wants it. The rows are those that
rpc_migrations.applied_by_others answers: the oldest first, each column as text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from .errors import StepFileError
from .file_names import file_of, name_of

Rows = Sequence[Sequence[str | None]]
Answer = bool | tuple[str, str]  # whether it is applied; or why that cannot be told, and what to do

_NUMBER = re.compile(r"\d+")
_TIMESTAMP_DIGITS = 12  # a number of so many is a migration's own


@dataclass(frozen=True)
class Noted:
    """What a tool's table says of a file: it is applied; or, where `doubt` says why, that cannot be told."""

    tool: str
    doubt: str = ""
    hint: str = ""


def noted_by_others(path: Path, tables: Mapping[str, Rows]) -> Noted | None:
    """What the other tools' tables say of a file; None if it is none of their files, or is not applied yet."""
    in_doubt = None
    for tool, says in TOOLS.items():
        answer = says(path, tables[tool]) if tool in tables else False
        if answer is True:
            return Noted(tool)
        if answer:
            in_doubt = in_doubt or Noted(tool, *answer)
    return in_doubt


def _prisma(path: Path, rows: Rows) -> Answer:
    name = name_of(path)
    if not file_of(path).endswith("/migration.sql"):
        return False
    own = [(ended, undone) for _, noted, ended, undone in rows if noted == name]
    if any(ended and not undone for ended, undone in own):
        return True
    if all(undone for _, undone in own):
        return False
    return (
        "Prisma has begun it, and has noted neither its end nor that it was rolled back.",
        f"See what of it took effect. If all of it did, run: npx prisma migrate resolve --applied {name}. "
        f"If nothing did, or you have undone it: npx prisma migrate resolve --rolled-back {name}",
    )


def _drizzle(path: Path, rows: Rows) -> Answer:
    """By the time in the journal, or since its version 1 by the name of the folder, which alone decide for Drizzle. Where these do not tell,
    by the SHA-256 of the text, with the line ends that it had then: a file may do again what another one did.
    """
    times = {int(created) for created, _, _ in rows if created and _NUMBER.fullmatch(created)}
    when = _when(path)
    if when in times or any(name == name_of(path) for _, _, name in rows):
        return True
    if when is not None and when > max(times, default=0):
        return False
    text = path.read_bytes().replace(b"\r\n", b"\n")
    hashes = {sha256(one).hexdigest() for one in (path.read_bytes(), text, text.replace(b"\n", b"\r\n"))}
    if any(noted in hashes and not name for _, noted, name in rows):
        return True
    if file_of(path).endswith("/migration.sql"):
        return (path.parent / "snapshot.json").exists() and _second(name_of(path)) in {time // 1000 for time in times}
    if when is None:
        return False
    return (
        "Drizzle has applied later ones, and has neither its text nor its time. It is skipped there.",
        f"If it is applied, and was edited since, run in the SQL Editor: insert into drizzle.__drizzle_migrations (hash, created_at) "
        f"values ('{sha256(text).hexdigest()}', {when}). If not, give it a later time (\"when\") in meta/_journal.json.",
    )


def _second(name: str) -> int | None:
    """The second, since 1970, with which the name of a folder begins."""
    try:
        return int(datetime.strptime(name[:14], "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp())
    except ValueError:
        return None


def _when(path: Path) -> int | None:
    """The time that Drizzle's journal beside a file has for it, in milliseconds; None without a journal, or if the file is not in it."""
    journal = path.parent / "meta" / "_journal.json"
    if not journal.exists():
        return None
    try:
        entries = json.loads(journal.read_bytes())["entries"]
        return next((int(one["when"]) for one in entries if one["tag"] == path.stem), None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StepFileError(
            f"{journal} cannot be read as Drizzle's journal: {error!r}",
            hint="Nothing was run. It has the times by which Drizzle knows what is applied: put it right.",
        ) from error


def _flyway(path: Path, rows: Rows) -> Answer:
    """By the version, of which 1_2, 01.2 and 1.2.0 are the same. The newest row decides; a baseline stands for all versions up to its own."""
    found = re.match(r"V(\d+(?:[._]\d+)*)__", path.name, re.IGNORECASE)
    if not found:
        return False
    version, newest = _flyway_version(found[1]), None
    baseline: tuple[int, ...] = ()
    for _, noted, kind, success in rows:
        one = _flyway_version(noted or "")
        if (kind or "").endswith("BASELINE"):
            baseline = max(baseline, one) if success == "true" else baseline
        elif noted and one == version and kind != "SCHEMA":
            newest = kind or "", success == "true"
    if newest is None:
        return version <= baseline and baseline != ()
    kind, succeeded = newest
    is_undo = kind.startswith("UNDO")
    if not succeeded:
        return (
            f"Flyway has noted that {'its way back' if is_undo else 'it'} failed.",
            "Undo by hand what of it took effect, then run: flyway repair",
        )
    if kind == "DELETE":
        return (
            "Flyway had applied it, and marked it as deleted (flyway repair) when there was no such file.",
            "If what it did is there, take it out of the folder. If not, give it another version.",
        )
    return not is_undo


def _flyway_version(text: str) -> tuple[int, ...]:
    parts = [int(part) for part in _NUMBER.findall(text)]
    while parts and not parts[-1]:
        parts.pop()
    return tuple(parts)


def _diesel(path: Path, rows: Rows) -> Answer:
    version = "".join(_NUMBER.findall(file_of(path).split("_")[0]))
    return file_of(path).endswith("/up.sql") and any(noted == version for noted, _ in rows)


def _dbmate(path: Path, rows: Rows) -> Answer:
    found = _NUMBER.match(path.name)
    return found is not None and any(noted == found[0] for (noted,) in rows) and b"migrate:up" in path.read_bytes()


def _goose(path: Path, rows: Rows) -> Answer:
    """The newest row of a version decides: older releases note the way back as one."""
    found = _NUMBER.match(path.name)
    if not found or b"+goose" not in path.read_bytes():
        return False
    own = [is_applied for _, noted, is_applied in rows if _integer(noted) == int(found[0])]
    return bool(own) and own[-1] == "true"


def _golang_migrate(path: Path, rows: Rows) -> Answer:
    """Its table has the last version only. While a file is under way, that is dirty: of a way back, it is the version before the file's."""
    found = _NUMBER.match(path.name)
    if not found or not path.name.endswith(".up.sql"):
        return False
    last = [(_integer(noted), dirty == "true") for noted, dirty in rows]
    own = int(found[0])
    if any(own < version or (own == version and not dirty) for version, dirty in last):
        return True
    return next(
        (
            (
                f"golang-migrate has version {version} as dirty: a file stopped halfway, that one, or the way back of the one after it.",
                "See what of it took effect, and undo or complete that by hand. Then note the version that is there: migrate force VERSION",
            )
            for version, dirty in last
            if dirty
        ),
        False,
    )


def _atlas(path: Path, rows: Rows) -> Answer:
    """By the version, which may be any text. Types are flags: 1 is a baseline, which stands for all before it, 4 is resolved by hand."""
    if not (path.parent / "atlas.sum").exists():
        return False
    version = path.stem.split("_")[0]
    for noted, kind, applied, total in rows:
        flags = _integer(kind)
        if noted == version and not flags & 4 and _integer(applied) < _integer(total):
            return (
                f"Atlas has applied {applied} of its {total} statements.",
                f"Complete it: atlas migrate apply. If you have done so by hand: atlas migrate set {version}",
            )
        if noted == version or (flags & 1 and noted and version <= noted):
            return True
    return False


def _sqlx(path: Path, rows: Rows) -> Answer:
    """By the version; where that is no timestamp, by the rest of the name as well."""
    found = re.fullmatch(r"(\d+)_(.*?)(\.up)?\.sql", path.name)
    for noted, description, success in rows if found else ():
        if found and _integer(noted) == int(found[1]):
            if success != "true":
                return (
                    "SQLx has noted that it failed.",
                    "Undo by hand what of it took effect, and delete its row from _sqlx_migrations; or complete it, and set success to true there.",
                )
            return description == found[2].replace("_", " ") or len(found[1]) >= _TIMESTAMP_DIGITS
    return False


def _refinery(path: Path, rows: Rows) -> Answer:
    found = re.fullmatch(r"[VU](\d+)__(\w+)\.sql", path.name)
    return found is not None and any(_integer(noted) == int(found[1]) and name == found[2] for noted, name, _ in rows)


def _node_pg_migrate(path: Path, rows: Rows) -> Answer:
    return any(name == path.stem for _, name, _ in rows)


def _sql_migrate(path: Path, rows: Rows) -> Answer:
    return any(name == path.name for name, _ in rows)


def _graphile_migrate(path: Path, rows: Rows) -> Answer:
    found = re.search(rb"^--! Hash: (\S+)", path.read_bytes(), re.MULTILINE)
    return found is not None and any(noted == found[1].decode(errors="replace") for _, noted, _ in rows)


def _yoyo(path: Path, rows: Rows) -> Answer:
    return any(name == path.stem for name, _ in rows)


def _postgrator(path: Path, rows: Rows) -> Answer:
    found = re.match(r"(\d+)\.do\.", path.name)
    return found is not None and int(found[1]) <= max((_integer(noted) for noted, _, _ in rows), default=-1)


def _integer(text: str | None) -> int:
    """A number of a table's; less than any version if it is none."""
    return int(text) if text and re.fullmatch(r"-?\d+", text) else -2


TOOLS: dict[str, Callable[[Path, Rows], Answer]] = {
    "Prisma": _prisma,
    "Drizzle": _drizzle,
    "Flyway": _flyway,
    "Diesel": _diesel,
    "dbmate": _dbmate,
    "goose": _goose,
    "golang-migrate": _golang_migrate,
    "Atlas": _atlas,
    "SQLx": _sqlx,
    "refinery": _refinery,
    "node-pg-migrate": _node_pg_migrate,
    "sql-migrate": _sql_migrate,
    "graphile-migrate": _graphile_migrate,
    "yoyo": _yoyo,
    "Postgrator": _postgrator,
}
