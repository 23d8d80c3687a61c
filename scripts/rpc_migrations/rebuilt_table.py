"""The table that a migration rebuilds, before it does: its size, what is carried over, roughly how long it takes."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .journal_words import count
from .shapes import Maybe
from .sql import quote_literal
from .sql_text import canonical, unquoted

if TYPE_CHECKING:
    from .client import RpcClient
    from .migration import Migration

# Measured on two cores (tests/benchmarks/README.md): rows that a migration copies, indexes and compares in a second, and
# the rows up to which an index build stays within one request.
ROWS_PER_SECOND = 200_000
ROWS_PER_REQUEST = 20_000_000
ROWS_TO_COUNT, BYTES_TO_COUNT = 1_000_000, 200_000_000  # the rows of smaller tables are counted, not estimated

NOTHING_CARRIED = "nothing but columns and rights"

_STRING = r"E?'(?:[^']|'')*'"
_BEGIN_COPY = re.compile(
    rf"\bbegin_(copy|rebuild)\"? ?\( ?({_STRING})(?: , (?:backup => )?({_STRING}))?"
)  # in a canonical text

_TABLE_QUERY = """
select
    to_regclass({table}) is not null as is_there,
    to_regclass({backup}) is not null as has_backup,
    c.relkind = 'r' and c.relowner = current_user::regrole as is_read,
    c.reltuples::bigint as rows,
    pg_relation_size(c.oid) as bytes,
    pg_size_pretty(pg_total_relation_size(c.oid)) as size,
    2 * pg_total_relation_size(c.oid) as room,
    (
        select string_agg(format('%s %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' order by a.attnum)
        from pg_catalog.pg_attribute as a
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    ) as columns,
    rpc_migrations.obstacles_in_words(c.oid) as obstacles,
    (
        select jsonb_agg(jsonb_build_object('kind', d.kind, 'name', coalesce(d.name, '')) order by d.kind, d.name)
        from rpc_migrations.describe_table(c.oid, {table}) as d
        where d.kind not in ('column', 'grant', 'owner') and (d.statement is not null or d.detach is null)
    ) as carried
from (values (1)) as one
left join pg_catalog.pg_class as c on c.oid = to_regclass({table})
"""
_SHAPE = {
    "is_there": bool, "has_backup": bool, "is_read": Maybe(bool), "rows": Maybe(int), "bytes": Maybe(int), "size": Maybe(str), "room": Maybe(int),
    "columns": Maybe(str), "obstacles": Maybe(str), "carried": Maybe([{"kind": str, "name": str}]),
}  # fmt: skip
_ROWS_QUERY = "select c.reltuples::bigint as rows from pg_catalog.pg_class as c where c.oid = to_regclass({table})"


class NamedTable(NamedTuple):
    """The table that a migration rebuilds, by the names in its steps."""

    name: str
    backup: str
    must_be_there: bool  # before the migration; else the migration makes it, empty


@dataclass(frozen=True)
class RebuiltTable:
    """A table that a migration rebuilds, as the database has it."""

    name: str
    backup: str
    must_be_there: bool
    is_there: bool
    has_backup: bool
    rows: int | None  # None: not known
    counted: bool  # rows were counted, not estimated
    size: str
    room: int  # bytes of disk that the rebuild takes: the new table with its indexes, and as much again of WAL
    columns: str
    obstacles: str | None  # why it cannot be rebuilt
    carried: list[dict[str, str]]  # what belongs to it besides columns and rights: kind, name

    @property
    def rows_in_words(self) -> str:
        """How many rows it has, in words."""
        return rows_in_words(self.rows, counted=self.counted)

    @property
    def carried_by_name(self) -> str:
        """All that is carried over, by kind and name."""
        return ", ".join(f"{one['kind']} {one['name']}".strip() for one in self.carried) or NOTHING_CARRIED

    @property
    def carried_by_number(self) -> str:
        """How many things of each kind are carried over."""
        numbers = Counter(one["kind"] for one in self.carried)
        return ", ".join(_count(number, kind) for kind, number in numbers.items()) or NOTHING_CARRIED

    @property
    def seconds_in_words(self) -> str:
        """Roughly how long the rebuild takes, in words."""
        seconds = max((self.rows or 0) / ROWS_PER_SECOND, 1)
        return f"about {seconds:,.0f} s" if seconds < 120 else f"about {seconds / 60:,.0f} min"

    @property
    def too_large(self) -> str | None:
        """Why it may be too large for requests, and what to do then; None if it fits."""
        return _too_large(self.rows or 0)


def find_table(migration: Migration) -> NamedTable | None:
    """The table that a migration rebuilds; None if it rebuilds none."""
    for step in migration.steps:
        if step.begins_a_copy and (found := _BEGIN_COPY.search(canonical(step.sql))):
            must_be_there = found[1] == "rebuild" and not migration.may_need_others(step)
            return NamedTable(unquoted(found[2]), unquoted(found[3] or "''"), must_be_there)
    return None


def read_table(client: RpcClient, migration: Migration) -> RebuiltTable | None:
    """Look at the table that a migration rebuilds; None if it rebuilds none. execute_sql must be deployed."""
    found = find_table(migration)
    if found is None:
        return None
    table, backup, must_be_there = found
    row = client.row(_TABLE_QUERY.format(table=quote_literal(table), backup=quote_literal(backup)), _SHAPE)
    rows, counted = row["rows"], False
    # Of another role's table even the planning of a query may call what its indexes call.
    if row["is_read"] and rows < ROWS_TO_COUNT and row["bytes"] < BYTES_TO_COUNT:
        rows, counted = client.row(f"select count(*) as rows from {table}", {"rows": int})["rows"], True
    return RebuiltTable(
        table, backup, must_be_there, row["is_there"], row["has_backup"],
        rows=None if rows is None or rows < 0 else rows, counted=counted,
        size=row["size"] or "", room=row["room"] or 0, columns=row["columns"] or "", obstacles=row["obstacles"], carried=row["carried"] or [],
    )  # fmt: skip


def size_warning(client: RpcClient, migration: Migration) -> str | None:
    """Why the table that a migration rebuilds may be too large for requests, and what to do then; None if it fits."""
    found = find_table(migration)
    if found is None:
        return None
    rows = client.rows(_ROWS_QUERY.format(table=quote_literal(found.name)), {"rows": Maybe(int)})
    return _too_large(rows[0]["rows"] or 0) if rows else None


def rows_in_words(rows: int | None, *, counted: bool) -> str:
    """How many rows a table has, in words; None: not known. `counted`: not estimated from the statistics."""
    if rows is None:
        return "rows not counted"
    return f"{'' if counted else 'about '}{count(rows, 'row')}"


def _count(number: int, kind: str) -> str:
    """1 index, 2 indexes; things that there can only be one of have no number."""
    if kind in ("row security", "replica identity", "clustering"):
        return kind
    plural = {"index": "indexes", "policy": "policies"}.get(kind, kind if kind.endswith("s") else f"{kind}s")
    return f"{number} {kind if number == 1 else plural}"


def _too_large(rows: int) -> str | None:
    if rows <= ROWS_PER_REQUEST:
        return None
    return (
        f"The table has about {rows:,} rows: building one index over it may take longer than a request can (50 s). "
        f"Over a direct connection it can take as long as it likes: --write-sql --online writes the file for psql."
    )
