"""Subscriptions of Supabase's Realtime follow the table that the application sees, and are never in the way of a swap."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from local_supabase import Database
from step_runner import ROLLBACK, Connection, deploy, read, rebuild_file, run

STEP_FILE = rebuild_file("orders", "like public.orders including all, note text")

# As Realtime makes them, in what matters here: the type of the column, the owner, the rights, and a check by the new table's rights.
REALTIME = """
create role supabase_realtime_admin noinherit createrole login;
create schema realtime authorization supabase_realtime_admin;
create table realtime.subscription (
    id bigint generated always as identity primary key,
    subscription_id uuid not null default gen_random_uuid(),
    entity regclass not null,
    filter text not null,
    role text not null default 'authenticated'
);
create function realtime.subscription_check_filters() returns trigger language plpgsql as $$
begin
    if not has_column_privilege(new.role, new.entity, new.filter, 'select') then
        raise exception 'invalid column for filter %', new.filter;
    end if;
    return new;
end $$;
create trigger tr_check_filters before insert or update on realtime.subscription
    for each row execute function realtime.subscription_check_filters();
alter table realtime.subscription owner to supabase_realtime_admin;
alter function realtime.subscription_check_filters() owner to supabase_realtime_admin;
grant usage on schema realtime to postgres;
grant select on realtime.subscription to postgres;
"""
MAY_WRITE = "grant all on realtime.subscription to postgres"
TABLES = """
create table public.orders (id integer primary key, name text);
create table public.others (id integer primary key, name text);
insert into public.orders select n, 'x' from generate_series(1, 10) as n;
alter publication supabase_realtime add table public.orders, public.others;
grant select on public.orders, public.others to authenticated;
"""
SUBSCRIBE = "insert into realtime.subscription (entity, filter) values ('public.orders', 'id'), ('public.orders', 'name'), ('public.others', 'id')"
ENTITIES = "select c.relname from realtime.subscription as s inner join pg_class as c on c.oid = s.entity order by s.id"
FOLLOW = "Realtime subscriptions that follow within a minute: "
WARNING = "after the swap its Realtime subscribers may hear nothing for up to a minute"


@pytest.fixture
def superuser(database: Database, admin: Connection) -> Iterator[Connection]:
    """A project in which two clients are subscribed to orders and one to another table."""
    deploy(admin, [("interval '50 ms'", "interval '1 hour'")])  # however slow this machine is
    admin.execute(TABLES)
    with database.connect("supabase_admin") as connection:
        roles = connection.execute("select count(*) from pg_roles where rolname = 'supabase_realtime_admin'").fetchone()
        connection.execute((REALTIME if roles == (0,) else REALTIME.replace("create role", "alter role")).encode())
        # Roles are the server's, and other tests' projects have postgres as a member of this one.
        is_member = connection.execute("select pg_has_role('postgres', 'supabase_realtime_admin', 'member')").fetchone()
        connection.execute("revoke supabase_realtime_admin from postgres")
        connection.execute(SUBSCRIBE)
        yield connection
        if is_member == (True,):
            connection.execute("grant supabase_realtime_admin to postgres")


def messages(admin: Connection, text: str) -> str:
    """Run a step file; everything that its steps said."""
    return "\n".join(str(call.answer.get("message") or call.answer) for call in run(admin, text))


def entities(superuser: Connection) -> list[str]:
    """The tables that the subscriptions are to, by the names that these have now."""
    return [name for (name,) in superuser.execute(ENTITIES).fetchall()]


def test_subscriptions_follow_there_and_back(admin: Connection, superuser: Connection) -> None:
    superuser.execute(MAY_WRITE)
    for text in (STEP_FILE, read(ROLLBACK), STEP_FILE):
        said = messages(admin, text)
        assert entities(superuser) == ["orders", "orders", "others"]
        assert FOLLOW not in said
        assert WARNING not in said


def test_without_the_right_it_is_said_before(admin: Connection, superuser: Connection) -> None:
    """And after the swap, how many it concerns. Other people's rows are as they were."""
    said = messages(admin, STEP_FILE)
    assert WARNING in said
    assert f"{FOLLOW}2" in said
    assert entities(superuser) == ["orders_backup", "orders_backup", "others"]


def test_without_realtime_or_subscribers_nothing_is_said(admin: Connection, superuser: Connection) -> None:
    superuser.execute("truncate realtime.subscription")
    assert FOLLOW not in messages(admin, STEP_FILE)
    superuser.execute("drop schema realtime cascade")
    said = messages(admin, read(ROLLBACK))
    assert WARNING not in said
    assert FOLLOW not in said


def test_many_are_left_rather_than_let_the_application_wait(admin: Connection, superuser: Connection) -> None:
    superuser.execute(MAY_WRITE)
    deploy(admin, [("interval '50 ms'", "interval '0'")])
    assert f"{FOLLOW}2" in messages(admin, STEP_FILE)
    assert entities(superuser) == ["orders_backup", "orders_backup", "others"]


def test_one_that_realtime_refuses_stays_and_the_others_go(admin: Connection, superuser: Connection) -> None:
    superuser.execute(MAY_WRITE)
    superuser.execute("alter table realtime.subscription disable trigger user")
    superuser.execute("insert into realtime.subscription (entity, filter) values ('public.orders', 'gone')")
    superuser.execute("alter table realtime.subscription enable trigger user")
    said = messages(admin, STEP_FILE)
    assert f"{FOLLOW}1" in said
    assert entities(superuser) == ["orders", "orders", "others", "orders_backup"]


@pytest.mark.parametrize(
    "held",
    [
        "select from realtime.subscription where id = 1 for update",
        "lock table realtime.subscription in access exclusive mode",
    ],
)
def test_a_lock_of_realtime_is_not_waited_for(
    database: Database, admin: Connection, superuser: Connection, held: str
) -> None:
    superuser.execute(MAY_WRITE)
    with database.connect("supabase_admin") as realtime, realtime.transaction():
        realtime.execute(held.encode())
        calls = [call for call in run(admin, STEP_FILE) if call.step == "swap"]
    assert [call.answer["state"] for call in calls] == ["done"]
    moved = entities(superuser)
    assert moved[0] == "orders_backup"
    assert moved[1] == ("orders" if "for update" in held else "orders_backup")


@pytest.mark.parametrize(
    "change",
    [
        "alter table realtime.subscription owner to intruder",
        "alter function realtime.subscription_check_filters() owner to intruder",
    ],
)
def test_what_another_role_made_is_not_touched(admin: Connection, superuser: Connection, change: str) -> None:
    """An update would run its triggers with our rights."""
    superuser.execute(MAY_WRITE)
    superuser.execute("drop role if exists intruder")
    superuser.execute("create role intruder")
    try:
        superuser.execute("grant all on schema realtime to intruder")
        superuser.execute(change.encode())
        superuser.execute(MAY_WRITE)
        assert WARNING in messages(admin, STEP_FILE)
        assert entities(superuser)[0] == "orders_backup"
    finally:
        superuser.execute("drop schema realtime cascade")
        superuser.execute("drop role intruder")
