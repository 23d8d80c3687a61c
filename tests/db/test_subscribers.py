"""Subscribers of a publication for a whole schema, which is for the table that was moved aside as well."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from local_supabase import Cluster, Database
from local_supabase.database import SUPERUSER
from rest_calls import wait_until
from step_runner import ROLLBACK, Connection, calls, deploy, read, rebuild_file

OWNERS = "create table public.owners (id integer primary key)"
ORDERS = "create table public.orders (id integer primary key, owner integer, note text)"
KEY = "alter table public.orders add foreign key (owner) references public.owners (id) on delete cascade"
STEP_FILE = rebuild_file("orders", "id integer not null, owner integer, note text")
MAKE = r"create table public\.\w+ \(like public\.orders\)"


@pytest.fixture
def subscriber(cluster: Cluster, admin: Connection, database: Database) -> Iterator[Connection]:
    """A database that is sent what is written to the schema public, which has an empty table of orders."""
    other = cluster.create_database()
    with database.connect(SUPERUSER) as superuser, other.connect(SUPERUSER) as subscribed:
        for one in (admin, subscribed):
            one.execute(f"{OWNERS}; {ORDERS}")
        admin.execute(KEY)
        deploy(admin)
        superuser.execute("create publication everything for tables in schema public")
        with database.subscription("everything", subscribed):
            yield subscribed
    other.drop()


def migrate(admin: Connection, text: str, subscriber: Connection) -> list[str]:
    """Run a step file, and at the subscriber at once what the answers say is to be made there; returns that."""
    made = []
    for call in calls(admin, text):
        for statement in re.findall(MAKE, (call.answer.get("result") or {}).get("message") or ""):
            subscriber.execute(statement)
            made.append(statement.split()[2])
    return made


def test_what_is_to_be_made_at_the_subscribers_is_told(admin: Connection, subscriber: Connection) -> None:
    """Rows of the table that was moved aside are deleted with their parents, and a rollback writes to it."""
    admin.execute("insert into public.owners select n from generate_series(1, 5) as n")
    admin.execute("insert into public.orders select n, n, 'a' from generate_series(1, 5) as n")
    assert migrate(admin, STEP_FILE, subscriber) == ["public.orders_backup"]
    admin.execute("delete from public.owners where id = 1; update public.orders set note = 'b' where id = 2")
    subscriber.execute("drop table public.orders_backup")
    again, kept = migrate(admin, read(ROLLBACK), subscriber)
    assert (again, kept[:26]) == ("public.orders_backup", "public.orders_rolled_back_")
    admin.execute("delete from public.owners where id = 3; update public.orders set note = 'c' where id = 4")
    query = b"select * from public.orders order by id"
    rows = admin.execute(query).fetchall()
    assert rows == [(2, 2, "b"), (4, 4, "c"), (5, 5, "a")]
    assert wait_until(lambda: subscriber.execute(query).fetchall() == rows)


@pytest.mark.parametrize(
    "publication", ["one for table public.orders", "supabase_realtime for tables in schema public"]
)
def test_where_nobody_would_stop_nothing_is_said(admin: Connection, database: Database, publication: str) -> None:
    """A table is taken out of the publication that it is in by itself, and Realtime needs no table."""
    admin.execute(f"{OWNERS}; {ORDERS}".encode())
    deploy(admin)
    with database.connect(SUPERUSER) as superuser:
        superuser.execute("drop publication supabase_realtime")
        superuser.execute(f"create publication {publication}".encode())
        superuser.execute(f"alter publication {publication.split(maxsplit=1)[0]} owner to postgres".encode())
    for text in (STEP_FILE, read(ROLLBACK)):
        assert not [call for call in calls(admin, text) if re.search(MAKE, str(call.answer))]
