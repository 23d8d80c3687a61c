"""Databases in the states that the tests of the scripts begin with, and what they look like."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from local_supabase import Cluster, Database, LocalSupabase, create_old_table
from step_runner import deploy

FACTORS = ("learning_style_factor", "technical_depth_factor", "quiz_performance_factor", "feedback_pattern_factor")


# An event trigger by which every new function belongs to the role `keeper`.
GIVES_AWAY = """
create function public.give_away() returns event_trigger language plpgsql security definer as $$ declare made record; begin
    for made in select * from pg_event_trigger_ddl_commands() where object_type = 'function' loop
        execute format('alter function %s owner to keeper', made.object_identity);
    end loop;
end $$;
create event trigger give_away on ddl_command_end when tag in ('CREATE FUNCTION') execute function public.give_away();
"""


@contextmanager
def project(
    cluster: Cluster, *, rows: int | None = 20, deployed: bool = True, **options: Any
) -> Iterator[LocalSupabase]:
    """A Supabase with `rows` rows in an old user_clusters (None: without the table); `options` are LocalSupabase's."""
    database = cluster.create_database()
    with database.connect() as connection:
        if rows is not None:
            create_old_table(connection, rows=rows)
        if deployed:
            deploy(connection)
    with LocalSupabase(database, **options) as running:
        yield running
    database.drop()


def table_as_it_is(database: Database, table: str = "public.user_clusters") -> tuple[str, list[Any]]:
    """A table's definition, with all that belongs to it, and its rows."""
    definition = database.dump_schema(f"--table={table}")
    with database.connect("supabase_admin") as connection:
        rows = connection.execute(f"select to_jsonb(t) from {table} as t order by t::text".encode()).fetchall()
    return definition, rows


def one(connection: psycopg.Connection[Any], sql: str) -> Any:
    """The one value that a query answers."""
    row = connection.execute(sql.encode()).fetchone()
    return None if row is None else row[0]


def columns(connection: psycopg.Connection[Any], table: str) -> list[str]:
    """Names of a table's columns in order; none where there is no table."""
    rows = connection.execute(
        "select attname from pg_attribute where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped order by attnum",
        [table],
    )
    return [name for (name,) in rows]


def is_migrated(connection: psycopg.Connection[Any]) -> bool:
    """Whether the new tables are there."""
    has_factors = set(FACTORS) <= set(columns(connection, "public.user_clusters"))
    return has_factors and columns(connection, "public.prompt_refinements") != []


def by_psql(running: LocalSupabase, file: Path, code: int = 0, options: Sequence[str] = ()) -> None:
    """Run a file with psql -f, over a direct connection."""
    database = running.database
    command = [
        database.cluster.programs / "psql",
        "--no-psqlrc",
        "--quiet",
        "-v",
        "ON_ERROR_STOP=1",
        *options,
        "-f",
        file,
        database.dsn(),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
