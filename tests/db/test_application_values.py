"""Values that the application writes after the comparison, in sessions with settings of their own, and numbers that it draws."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from local_supabase import Database
from schema_dump import dump_schema
from step_runner import ROLLBACK, Connection, deploy, read, rebuild_file, run, short_way

# The old type, the new one, a value that fits and one that does not.
TYPES = {
    "a rounded number": ("numeric", "numeric(8, 2)", "1.23", "1.239"),
    "a float": ("double precision", "real", "0.5", "0.1"),
    "a date": ("timestamptz", "date", "2026-01-01 00:00+00", "2026-01-01 12:00+00"),
    "a fraction": ("numeric", "integer", "7", "7.5"),
}


@pytest.mark.parametrize(("old", "new", "fits", "misfit"), TYPES.values(), ids=TYPES)
def test_a_value_that_would_change_stops_before_the_swap(
    admin: Connection, database: Database, old: str, new: str, fits: str, misfit: str
) -> None:
    """With the row's key; it is as it was written, and once it is changed the migration goes on. On the way back as well."""
    deploy(admin)
    admin.execute(f"create table public.things (id integer primary key, value {old})")
    admin.execute("insert into public.things values (1, %s), (77, %s)", [fits, fits])
    text = rebuild_file("things", f"id integer not null, value {new}")
    run(admin, text, until="compare")
    admin.execute("update public.things set value = %s where id = 77", [misfit])
    before = dump_schema(database)
    with pytest.raises(psycopg.Error, match=r"column value of the row with the key .*77.* is") as caught:
        run(admin, text)
    assert caught.value.sqlstate == "RM001"
    assert dump_schema(database) == before
    admin.execute("update public.things set value = %s where id = 77", [fits])
    run(admin, text)

    back = rebuild_file("others", f"id integer not null, value {old}")
    admin.execute(
        f"create table public.others (id integer primary key, value {new}); insert into public.others values (77, null)"
    )
    run(admin, back, "other")
    admin.execute("update public.others set value = %s", [misfit])
    with pytest.raises(psycopg.Error, match=r"column value of the row with the key .*77.* is"):
        run(admin, read(ROLLBACK), "other")


CASTS = {
    "a time without its zone": ("timestamptz", "timestamp", "2026-01-01 12:00+00", "2026-01-01 12:00:00"),
    "a date as text": ("date", "text", "2026-02-01", "2026-02-01"),
    "bytes as text": ("bytea", "text", "\\x41", "\\x41"),
}
ELSEWHERE = "set timezone = 'Asia/Tokyo'; set datestyle = 'German'; set bytea_output = 'escape'; set extra_float_digits = 0; set intervalstyle = 'iso_8601'"


@pytest.mark.parametrize(("old", "new", "written", "expected"), CASTS.values(), ids=CASTS)
def test_another_session_finishes_it(
    admin: Connection, database: Database, old: str, new: str, written: str, expected: str
) -> None:
    """One in another time zone and with another style of writing dates."""
    deploy(admin)
    admin.execute(f"create table public.things (id integer primary key, value {old})")
    admin.execute("insert into public.things values (1, %s)", [written])
    text = rebuild_file("things", f"id integer not null, value {new}")
    run(admin, text, until="compare")
    admin.execute("insert into public.things values (2, %s)", [written])
    with database.connect() as other:
        other.execute(ELSEWHERE.encode())
        run(other, text)
    found = admin.execute("select distinct value::text from public.things").fetchall()
    assert found == [(expected,)]


def test_a_table_does_not_look_altered_elsewhere(admin: Connection, database: Database) -> None:
    """Constants in its defaults and checks are written otherwise there."""
    deploy(admin)
    admin.execute(
        "create table public.things (id integer primary key, value timestamptz default '2026-01-01 12:00+00' "
        "check (value > '2020-01-01 00:00+00'), span interval default '1 day 2 hours'); insert into public.things values (1)"
    )
    text = rebuild_file("things", "id integer not null")
    run(admin, text, until="copy the rows")
    with database.connect() as other:
        other.execute(ELSEWHERE.encode())
        run(other, text)
        run(other, read(ROLLBACK))


def test_a_table_does_not_look_altered_after_a_deployment_elsewhere(admin: Connection) -> None:
    """Which describes it anew, in the middle of the copy."""
    deploy(admin)
    admin.execute(
        "create table public.things (id integer primary key, value timestamptz default '2026-01-01 12:00+00')"
    )
    text = rebuild_file("things", "id integer not null")
    run(admin, text, until="copy the rows")
    admin.execute(ELSEWHERE.encode())
    deploy(admin)
    run(admin, text)


def test_tables_that_refer_to_each_other_one_after_the_other(admin: Connection, database: Database) -> None:
    """The second migration is refused at its beginning, and both can be finished, and rolled back."""
    deploy(admin)
    admin.execute(
        "create table public.a (id integer primary key, b integer); "
        "create table public.b (id integer primary key, a integer references public.a); "
        "alter table public.a add constraint a_b foreign key (b) references public.b; "
        "insert into public.a values (1); insert into public.b values (1, 1)"
    )
    before = dump_schema(database)
    a, b = (rebuild_file(name, f"id integer not null, {other} integer") for name, other in (("a", "b"), ("b", "a")))
    run(admin, a, "first", until="copy the rows")
    with pytest.raises(psycopg.Error, match=r"migration first rebuilds public\.a") as caught:
        run(admin, b, "second")
    assert caught.value.sqlstate == "RM005"
    run(admin, a, "first", until="swap")
    with pytest.raises(psycopg.Error, match=r"migration first rebuilds public\.a"):
        run(admin, b, "second")
    run(admin, a, "first")
    run(admin, b, "second")
    assert dump_schema(database) == before
    run(admin, read(ROLLBACK), "second")
    run(admin, read(ROLLBACK), "first")
    assert dump_schema(database) == before


def test_a_serial_number_that_becomes_a_bigint_has_room(admin: Connection, database: Database) -> None:
    deploy(admin)
    admin.execute("create table public.things (id serial primary key, name text)")
    before = dump_schema(database)
    run(admin, rebuild_file("things", "id bigserial, name text"))
    admin.execute("select setval('public.things_id_seq', 2147483647)")
    assert admin.execute("insert into public.things values (default, 'x') returning id").fetchone() == (2147483648,)
    admin.execute("delete from public.things where true; select setval('public.things_id_seq', 5)")
    run(admin, read(ROLLBACK))
    assert dump_schema(database) == before


def test_a_default_elsewhere_on_the_identity_sequence_is_refused(admin: Connection) -> None:
    deploy(admin)
    admin.execute(
        "create table public.things (id integer generated always as identity primary key, name text); "
        "create table public.others (id integer default nextval('public.things_id_seq'))"
    )
    with pytest.raises(psycopg.Error, match=r"identity sequence: .*others") as caught:
        run(admin, rebuild_file("things", "id integer generated always as identity, name text"))
    assert caught.value.sqlstate == "RM001"


@pytest.mark.parametrize("condition", ["not null", "check (value is not null)"])
def test_a_key_of_a_domain_lets_the_table_be_truncated(admin: Connection, condition: str) -> None:
    """What notes a truncation has no key to note with it."""
    deploy(admin)
    admin.execute(
        f"create domain public.number as integer {condition}; "
        "create table public.things (id public.number primary key, name text); "
        "insert into public.things select n, 'old' from generate_series(1, 20) as n"
    )
    text = rebuild_file("things", "id public.number, name text")
    for file, until in ((text, "copy the rows"), (read(ROLLBACK), "roll back: begin")):
        run(admin, file, until=until)
        admin.execute("truncate public.things; insert into public.things values (7, 'new'), (8, 'new')")
        admin.execute("update public.things set id = 9 where id = 8")
        run(admin, file)
        assert admin.execute("select id, name from public.things order by id").fetchall() == [(7, "new"), (9, "new")]


GENERATED = {
    "by a function": "text generated always as (public.short(name)) stored",
    "by a function that calls it": "json generated always as (public.shorter(name)) stored",
}


@pytest.mark.parametrize("way", ["short", "long"])
@pytest.mark.parametrize("column", GENERATED.values(), ids=GENERATED)
def test_a_generated_value_that_its_function_would_not_give_now(
    admin: Connection, database: Database, tmp_path: Path, column: str, way: str
) -> None:
    """It is refused, with the query that finds such rows, and nothing is changed; ALTER TABLE leaves them. Made anew they are carried over."""
    deploy(admin)
    function = "create or replace function public.short(text) returns text language sql immutable as 'select {}($1)'"
    admin.execute(function.format("lower").encode())
    admin.execute(
        "create function public.shorter(text) returns json language sql immutable as 'select to_json(public.short($1))'; "
        f"create table public.things (id integer primary key, name text, brief {column}); "
        "insert into public.things values (1, 'Ab'), (2, 'C'), (3, null)"
    )
    admin.execute(function.format("upper").encode())
    admin.execute("insert into public.things values (4, 'd')")
    before = dump_schema(database)
    text = {
        "short": short_way(tmp_path / "more.sql", "public.things", "alter table public.things add more text"),
        "long": rebuild_file("things", f"id integer, name text, brief {column}, more text"),
    }[way]
    with pytest.raises(
        psycopg.Error, match=r"column brief is generated, .* in 2 rows, which this query finds: (.*)"
    ) as caught:
        run(admin, text)
    assert caught.value.sqlstate == "RM001"
    assert dump_schema(database) == before
    query = str(caught.value).split("finds: ")[1].split("\n")[0]
    assert [row[0] for row in admin.execute(query.encode())] == [1, 2]
    admin.execute("update public.things set name = name")
    run(admin, read(ROLLBACK)) if way == "long" else None
    run(admin, text)
    assert "AB" in str(admin.execute("select brief from public.things").fetchall())


ZONED = """
create function public.day_of(timestamptz) returns date language sql immutable as 'select $1::date';
create table public.things (id integer primary key, at timestamptz, day date generated always as (public.day_of(at)) stored);
insert into public.things values (1, '2026-01-01 12:00+00'), (2, '2026-01-01 22:00+00');
create index things_day on public.things (public.day_of(at));
"""


def test_a_generated_value_of_another_time_zone(admin: Connection, tmp_path: Path) -> None:
    """A function says that it is immutable and takes the session's zone: the copy, in another one, would give another day."""
    deploy(admin)
    admin.execute("set timezone = 'Asia/Tokyo'")
    admin.execute(ZONED)
    admin.execute("reset timezone")
    text = short_way(tmp_path / "more.sql", "public.things", "alter table public.things add more text")
    with pytest.raises(
        psycopg.Error, match=r"column day is generated, and what it calls would give another value in 1 row"
    ):
        run(admin, text)


def test_a_generated_value_of_the_databases_time_zone(admin: Connection, database: Database, tmp_path: Path) -> None:
    """It stays, and so does what an index has of it, also where another session goes on."""
    deploy(admin)
    text = short_way(tmp_path / "more.sql", "public.things", "alter table public.things add more text")
    admin.execute("set timezone = 'Asia/Tokyo'")
    admin.execute(ZONED)
    run(admin, text, until="begin the copy")
    with database.connect() as other:
        run(other, text)
    admin.execute("set enable_seqscan = off")
    by_index = "select id, day::text from public.things where public.day_of(at) = '2026-01-02'"
    assert admin.execute(by_index.encode()).fetchall() == [(2, "2026-01-02")]


# The old type, a value, and what is done to the column. psql's ALTER TABLE says what comes of it in the database's settings.
CONVERSIONS = {
    "a day": ("timestamptz", "2026-01-01 22:00+00", "type date using value::date"),
    "a time that gets a zone": ("timestamp", "2026-01-01 12:00", "type timestamptz"),
    "a time that gets a zone, by text": ("text", "2026-01-01 12:00", "type timestamptz using value::timestamptz"),
    "a day by text": ("text", "03/02/2026", "type date using value::date"),
    "text of a day": ("date", "2026-02-03", "type text"),
    "text of a time": ("timestamptz", "2026-01-01 22:00+00", "type text using value::text"),
    "text of an interval": ("interval", "1 day -02:03:04", "type text using value::text"),
    "a constant": ("date", "2026-01-15", "type integer using case when value < '2026-02-01'::date then 1 else 0 end"),
}
SETTINGS = "set timezone = 'Asia/Tokyo'; set datestyle = 'SQL, DMY'; set intervalstyle = 'sql_standard'"


@pytest.mark.parametrize(("old", "value", "change"), CONVERSIONS.values(), ids=CONVERSIONS)
def test_a_conversion_in_the_databases_settings(
    admin: Connection, database: Database, tmp_path: Path, old: str, value: str, change: str
) -> None:
    """As psql's: also of what is written meanwhile, where another session goes on, and back."""
    deploy(admin)
    text = short_way(tmp_path / "more.sql", "public.things", f"alter table public.things alter value {change}")
    admin.execute(SETTINGS.encode())
    admin.execute(
        f"create table public.expected (id integer primary key, value {old}); "
        f"create table public.things (id integer primary key, value {old})"
    )
    for number in range(1, 4):
        admin.execute(f"insert into public.expected values ({number}, %s)", [value])
    admin.execute("insert into public.things select * from public.expected where id < 3")
    before = admin.execute("select value::text from public.things").fetchall()
    admin.execute(f"alter table public.expected alter value {change}".encode())
    run(admin, text, until="copy the rows")
    admin.execute("insert into public.things values (3, %s)", [value])
    with database.connect() as other:
        run(other, text)
    got = "select id, value::text from public.{} order by 1"
    assert (
        admin.execute(got.format("things").encode()).fetchall()
        == admin.execute(got.format("expected").encode()).fetchall()
    )
    with database.connect() as other:
        run(other, read(ROLLBACK))
    assert admin.execute("select value::text from public.things where id < 3").fetchall() == before


def test_a_value_that_is_longer_than_its_type_comes_back(admin: Connection, database: Database, tmp_path: Path) -> None:
    """As the trigger of the extension moddatetime writes it: with all digits of the second, into a column of fewer (Prisma's)."""
    with database.connect("supabase_admin") as superuser:
        if superuser.execute("select from pg_available_extensions where name = 'moddatetime'").fetchone() is None:
            pytest.skip("no moddatetime")
        superuser.execute("create extension moddatetime schema extensions")
    deploy(admin)
    admin.execute(
        "create table public.things (id integer primary key, note text, changed timestamp(3)); insert into public.things values (1), (2); "
        "create trigger changed before update on public.things for each row execute function extensions.moddatetime('changed'); "
        "update public.things set note = 'before' where id = 1"
    )
    run(admin, short_way(tmp_path / "add.sql", "public.things", "alter table things add more text"))
    admin.execute("update public.things set note = 'since' where id = 2")
    rows = admin.execute("select id, note, changed::text from public.things order by id").fetchall()
    run(admin, read(ROLLBACK))
    assert admin.execute("select id, note, changed::text from public.things order by id").fetchall() == rows
