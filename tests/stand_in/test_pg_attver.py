"""On every version that the tests run on, columns have the option that PostgreSQL keeps there since November 2026, as if it
were its own.
"""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from local_supabase import Database

OPTIONS = """
select attname, array_to_string(attoptions, ' ') from pg_attribute
where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum
"""


def options(admin: psycopg.Connection[Any], relation: str) -> dict[str, str]:
    """The options of a relation's columns."""
    return dict(admin.execute(OPTIONS, [relation]).fetchall())


@pytest.fixture
def things(admin: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """With a table `things`."""
    admin.execute("create table things (id int, name text, price int, number int)")
    return admin


def test_columns_of_tables_views_and_types_have_it(things: psycopg.Connection[Any]) -> None:
    things.execute("create table copied as select * from things")
    things.execute("create view seen as select * from things")
    things.execute("create materialized view kept as select * from things")
    things.execute("create type pair as (one int, two int)")
    for relation in ("things", "copied", "seen", "kept", "pair", "auth.users"):
        assert all(value.startswith("pg_attver=") for value in options(things, relation).values()), relation


def test_sequences_and_indexes_do_not(things: psycopg.Connection[Any]) -> None:
    things.execute("create index things_index on things (id)")
    things.execute("create sequence things_sequence")
    for relation in ("things_index", "things_sequence"):
        assert set(options(things, relation).values()) == {None}, relation


def test_a_column_gets_its_own_when_it_is_added(things: psycopg.Connection[Any]) -> None:
    before = options(things, "things")
    things.execute("create table heir () inherits (things)")
    things.execute("alter table things add column colour text")
    after = options(things, "things")
    assert after.pop("colour") not in before.values()
    assert after == before
    assert options(things, "heir")["colour"].startswith("pg_attver=")


def test_an_altered_type_renews_it_from_that_column_on(things: psycopg.Connection[Any]) -> None:
    before = options(things, "things")
    things.execute("alter table things alter column price type bigint")
    after = options(things, "things")
    assert {name for name in after if after[name] != before[name]} == {"price", "number"}


def test_nothing_else_renews_it(things: psycopg.Connection[Any]) -> None:
    before = options(things, "things")
    things.execute("alter table things alter column id set not null, alter column name set default 'x'")
    things.execute("alter table things alter column price set statistics 7, add primary key (id)")
    things.execute("vacuum full things")
    assert options(things, "things") == before


@pytest.mark.parametrize("way", ["statement", "function"])
def test_a_users_options_stand_beside_it(things: psycopg.Connection[Any], way: str) -> None:
    def run(statement: str) -> None:
        if way == "function":
            statement = f"do $$ begin execute '{statement}'; end $$"
        things.execute(statement.encode())

    run("alter table things alter column name set (n_distinct = 5)")
    first, second = options(things, "things")["name"].split()
    assert (first[:10], second) == ("pg_attver=", "n_distinct=5")
    run("alter table things alter column name reset (n_distinct)")
    assert options(things, "things")["name"].startswith("pg_attver=")
    assert " " not in options(things, "things")["name"]


def test_a_dump_shows_the_users_options_alone(things: psycopg.Connection[Any], database: Database) -> None:
    things.execute("alter table things alter column name set (n_distinct = 5)")
    dump = database.dump_schema()
    assert "pg_attver=" not in dump.replace("'pg_attver=", ""), "but for the text of our own function"
    assert "ALTER TABLE ONLY public.things ALTER COLUMN name SET (n_distinct=5);" in dump
    assert dump.count("SET (") == 1
