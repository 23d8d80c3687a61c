"""Writes a new migration file for the user to edit."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime

from ..console import Console
from ..errors import MigrationError, SettingsError
from ..places import run_command
from ..rebuild import quoted_table
from ..settings import Settings
from ..sql import quote_literal
from .connection import connected

TEMPLATE = """\
-- {name}
--
-- One transaction: all of it takes effect, or nothing. To have it commit in between, put a line `-- step: NAME` above each part.
-- Where a table is in use, each statement waits for its lock for 100 ms and is tried again.

-- create table public.example (id bigint generated always as identity primary key);

/* rollback:
-- What takes it back (run_migration.py FILE --rollback). For psql and the Supabase CLI this is a comment.
-- drop table public.example;
*/
"""

REBUILD_TEMPLATE = """\
-- {name}
--
-- Rebuilds {table} while it is in use. Below the next line there is nothing but ALTER TABLE on it, which
-- psql and the Supabase CLI run as it stands; what goes before or after belongs in steps of its own (`-- step: NAME`).

-- rebuild: {table}
-- alter table {table} add column example text default 'open' not null;

{description}
"""
_NOT_ASKED = "-- Set SUPABASE_URL and SUPABASE_SERVICE_KEY to have the table's columns and constraints listed here."
_PARTS_QUERY = """
select p.kind, coalesce(p.name, '') as name, coalesce(p.statement, '') as statement
from rpc_migrations.describe_table(to_regclass({table}), {table}) as p
where p.statement is not null or p.detach is null
"""
_PART = {"kind": str, "name": str, "statement": str}
_CONSTRAINTS = (
    "primary key",
    "unique constraint",
    "check constraint",
    "exclusion constraint",
    "foreign key",
)
_TOLD_WITH_COLUMNS = ("not-null constraint", "sequence")


def new_migration(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Write a migration file to be edited, with the time in its name as the Supabase CLI has it. Never replaces a file."""
    name = re.sub(r"[^a-z0-9]+", "_", options.name.lower()).strip("_")
    if not name:
        raise SettingsError(
            f"{options.name!r} needs a letter from a to z or a digit.",
            hint="Name what the migration does: add_order_status.",
        )
    title = " ".join(options.name.split())  # behind a line break it would be SQL
    if options.rebuild is None:
        text = TEMPLATE.format(name=title)
    else:
        text = _rebuild(options.rebuild, title, settings, console)
    path = options.folder / f"{datetime.now(UTC):%Y%m%d%H%M%S}_{name}.sql"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise MigrationError(
            f"{path} cannot be written: {error.strerror or error}.",
            hint="Check the folder's permissions, or name another one with --folder.",
        ) from error
    console.report.files.append(str(path))
    console.say(f"Written: {path}")
    console.say(f"Edit it, then: {run_command(path)}")
    return 0


def _rebuild(name: str, title: str, settings: Settings, console: Console) -> str:
    """The text of a file that rebuilds a table. If the database can be asked, comments list what the table has."""
    table = quoted_table(name)
    if table is None:
        raise SettingsError(
            f"{name!r} is not the name of a table with its schema.",
            hint="For example: --rebuild public.orders",
        )
    if not table.isprintable():  # behind a line break it would be SQL
        raise SettingsError(
            f"{name!r} has a line break or the like, and a `-- rebuild:` line ends at it.",
            hint="Rename the table first.",
        )
    description = _NOT_ASKED
    if settings.has_credentials:
        with connected(settings, console) as client:
            parts = client.rows(_PARTS_QUERY.format(table=quote_literal(table)), _PART)
        if not parts:
            raise MigrationError(f"There is no table {table}.", hint="Name one that is there. Nothing was written.")
        description = _describe(parts)
    return REBUILD_TEMPLATE.format(name=title, table=table, description=description)


def _describe(parts: list[dict[str, str]]) -> str:
    """The table's columns and constraints, and the names of what else is carried over, as comments."""
    lines = ["The table now:"]
    lines += [f"  {_column(one['statement'])}" for one in parts if one["kind"] == "column"]
    # In lower case it is ours: a foreign key that is not valid only while the swap makes it.
    constraints = [one["statement"].removesuffix(" not valid") for one in parts if one["kind"] in _CONSTRAINTS]
    lines += [f"  {re.split(' add ', statement, maxsplit=1)[1]}" for statement in constraints]
    others = [
        one for one in parts if one["kind"] not in ("column", "owner", "grant", *_CONSTRAINTS, *_TOLD_WITH_COLUMNS)
    ]
    grants = [one["statement"].removesuffix(" with grant option") for one in parts if one["kind"] == "grant"]
    roles = sorted({statement.rpartition(" to ")[2] for statement in grants})
    lines += ["", "Carried over besides:"] if others or roles else []
    lines += [f"  {one['kind']} {one['name']}".rstrip() for one in others]
    lines += [f"  rights of {', '.join(roles)}"] if roles else []
    # This cast, which makes PostgreSQL read an expression back as it was, is of no use to a person.
    lines = [line.replace('::pg_catalog."any"', "") for line in lines]
    # A name may have line breaks; a carriage return alone ends a comment as well.
    return "\n".join(f"-- {line}".rstrip() for text in lines for line in re.split("[\r\n]", text))


def _column(statement: str) -> str:
    """A column as CREATE TABLE takes it, of the statements that add it and set its default."""
    added, _, default = statement.partition("; alter table ")
    column = added.split(" add column ", maxsplit=1)[1]
    end = " not null" if column.endswith(" not null") else ""
    return (
        column.removesuffix(end) + default[default.find(" set default ") + len(" set") :] + end if default else column
    )
