"""A disk that fills up during the copy: the application goes on, and so does the migration when there is room again."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from bench import run_here, settings_for
from local_supabase import Database, LocalSupabase
from local_supabase.programs import give_to_server_user
from psycopg import sql
from step_runner import ONE_AT_A_TIME, calls, deploy, steps_of

FILE = "-- rebuild: public.orders\nalter table orders add column status text default 'open' not null;\n"
TABLES = """
create table public.orders (id integer primary key, name text);
insert into public.orders select n, repeat('x', 1000) from generate_series(1, 20000) as n;
create table public.filler as select repeat('x', 1000) as name from generate_series(1, 20000);
"""
SIZE = "64m"  # of the disk: a database and two tables fit, and not a third one


@pytest.fixture
def on_a_small_disk(database: Database) -> Iterator[Database]:
    """A database that lies on a disk of its own."""
    place = Path(tempfile.mkdtemp(prefix="small_disk_"))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", place], capture_output=True).returncode:
        place.rmdir()
        pytest.skip("no disk can be mounted here")
    give_to_server_user(place)
    place.chmod(0o700)
    with database.cluster.connect() as superuser:
        superuser.execute(sql.SQL("create tablespace small location {}").format(sql.Literal(str(place))))
        superuser.execute(sql.SQL("alter database {} set tablespace small").format(sql.Identifier(database.name)))
        yield database
        database.drop()
        superuser.execute("drop tablespace small")
    subprocess.run(["umount", place], check=True)
    place.rmdir()


def test_the_application_goes_on_and_so_does_the_migration(on_a_small_disk: Database, tmp_path: Path) -> None:
    file = tmp_path / "orders.sql"
    file.write_text(FILE)
    with on_a_small_disk.connect() as application, LocalSupabase(on_a_small_disk) as supabase:
        deploy(application, ONE_AT_A_TIME)  # so that the disk is full after requests that have copied something
        application.execute(TABLES)
        settings = settings_for(supabase.url, supabase.service_key)
        error = run_here(settings, file).error
        assert error is not None
        assert (error.code, "the disk is full" in error.message) == ("53100", True), str(error.to_dict())
        application.execute(
            "insert into public.orders select n, repeat('y', 1000) from generate_series(20001, 23000) as n"
        )
        application.execute("drop table public.filler")
        assert run_here(settings, file).error is None
        assert application.execute("select to_regclass('rpc_migrations.reserve_1')").fetchone() == (None,)
        assert application.execute("select count(*), count(status) from public.orders").fetchone() == (23000, 23000)


def test_the_copy_gives_its_room_back_while_the_application_takes_some(
    on_a_small_disk: Database, tmp_path: Path
) -> None:
    """Emptying the copy needs next to none; what it frees is there with the commit only, and not for a reserve made before it."""
    file = tmp_path / "orders.sql"
    file.write_text(FILE)
    with on_a_small_disk.connect() as application, on_a_small_disk.connect() as admin:
        deploy(admin, ONE_AT_A_TIME)
        admin.execute(TABLES.encode())
        steps = calls(admin, steps_of(file))
        assert "disk_full" in (call.answer["state"] for call in steps)  # the next call gives the room back
        insert = "insert into public.orders select n, repeat('y', 1000) from generate_series(%s::int, %s) as n"
        application.execute(insert, [20001, 20400])
        assert next(steps).answer["state"] == "more"
        application.execute(insert, [20401, 23000])


def test_a_disk_that_is_full_after_the_copy(on_a_small_disk: Database, tmp_path: Path) -> None:
    """An index fills it once, and not again; what is in use is as it was, and rolling back makes room even where nobody can write."""
    file = tmp_path / "orders.sql"
    file.write_text(FILE)
    with on_a_small_disk.connect() as application, LocalSupabase(on_a_small_disk) as supabase:
        deploy(application)
        application.execute(
            b"create table public.orders (id integer primary key, name text);"
            b"insert into public.orders select n, string_agg(md5(n::text || g), '') "  # which an index cannot make smaller
            b"from generate_series(1, 20000) as n cross join generate_series(1, 20) as g group by n;"
            b"create index on public.orders (name)"
        )
        settings = settings_for(supabase.url, supabase.service_key)
        outcome = run_here(settings, file)
        assert outcome.error is not None
        assert (outcome.error.code, "the disk is full" in outcome.error.message) == ("53100", True), str(
            outcome.error.to_dict()
        )
        assert not [note for note in outcome.notes if "trying again" in note]
        insert = "insert into public.orders select n, repeat('y', 1000) || n from generate_series(%s::int, %s) as n"
        with pytest.raises(psycopg.errors.DiskFull):
            application.execute(insert, [20001, 80000])
        assert run_here(settings, file, rollback=True).error is None
        application.execute(insert, [20001, 20100])
        assert application.execute("select count(*) from public.orders").fetchone() == (20100,)
