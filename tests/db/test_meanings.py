"""What is carried over by its text means the same afterwards, or is refused by name."""

from __future__ import annotations

import psycopg
import pytest
from local_supabase import Database
from schema_dump import dump_schema
from step_runner import ROLLBACK, Connection, deploy, read, rebuild_file, run

STEP_FILE = rebuild_file("things", "id bigint not null, name text, amount integer")
# A function was called for want of one that fits exactly; since then there is one.
FITS_BETTER = (
    "anyelement",
    "create function public.f(integer) returns boolean language sql immutable as 'select true'",
)
# Or there is a second one for the same call.
AMBIGUOUS = (
    "integer",
    "create function public.f(integer, more integer default 1) returns boolean language sql immutable as 'select true'",
)

TEXTS = {
    "policy p": "create policy p on public.things using (public.f(amount))",
    "p on public.other": (
        "create table public.other (id bigint); create policy p on public.other "
        "using (exists (select from public.things as t where public.f(t.amount)))"
    ),
    "view public.v": "create view public.v as select public.f(amount) from public.things",
    "rule r": (
        "create rule r as on delete to public.things where public.f(old.amount) do also update public.things set amount = 0"
    ),
    "trigger t": (
        "create function public.t() returns trigger language plpgsql as 'begin return new; end'; create trigger t before update "
        "on public.things for each row when (public.f(new.amount)) execute function public.t()"
    ),
    "function public.g()": (
        "create function public.g() returns bigint begin atomic select count(*) from public.things where public.f(amount); end"
    ),
    "index i": "create index i on public.things (public.f(amount))",
    "check": "alter table public.things add constraint c check (public.f(amount))",
    "column b": "alter table public.things add b boolean default public.f(1)",
    "column g": "alter table public.things add g boolean generated always as (public.f(amount)) stored",
}


@pytest.mark.parametrize("change", [FITS_BETTER, AMBIGUOUS], ids=["fits better", "ambiguous"])
@pytest.mark.parametrize("named", TEXTS)
def test_what_would_mean_something_else_is_refused(
    admin: Connection, database: Database, named: str, change: tuple[str, str]
) -> None:
    """With the name of what it is, and nothing is changed."""
    deploy(admin)
    parameter, later = change
    admin.execute(
        "create table public.things (id bigint primary key, name text, amount integer); insert into public.things values (1, 'a', 1); "
        f"create function public.f({parameter}) returns boolean language sql immutable as 'select true'"
    )
    admin.execute(TEXTS[named].encode())
    admin.execute(later.encode())
    before = dump_schema(database)
    with pytest.raises(psycopg.DatabaseError, match=r"public.f") as caught:
        run(admin, STEP_FILE, until="begin the copy")
    assert caught.value.sqlstate == "RM001"
    assert named in str(caught.value)
    run(admin, read(ROLLBACK))
    assert dump_schema(database) == before


BY_PLACE = {
    "view": "create view public.it as select b, a, c from public.things as t (a, b, c)",
    "policy of another table": (
        "create table public.other (id bigint); create policy it on public.other "
        'using (exists (select from public.things as "a t" (a, b, c) where a = 1))'
    ),
    "function, a list": (
        "create function public.it() returns setof public.things language sql as 'select id, name, amount from public.things'"
    ),
    "function with an SQL body": (
        "create function public.it() returns setof public.things begin atomic select * from public.things; end"
    ),
}


@pytest.mark.parametrize("kind", BY_PLACE)
def test_what_goes_by_the_places_of_columns_needs_their_order(admin: Connection, database: Database, kind: str) -> None:
    """It is refused at the beginning where the step file has them in another order, and carried over where new ones come last."""
    deploy(admin)
    admin.execute("create table public.things (id bigint primary key, name text, amount integer)")
    admin.execute(BY_PLACE[kind].encode())
    before = dump_schema(database)
    with pytest.raises(psycopg.DatabaseError, match=r"in another order, and .*\bit\b.* goes by their places") as caught:
        run(admin, rebuild_file("things", "amount integer, id bigint not null, name text"), until="begin the copy")
    assert caught.value.sqlstate == "RM001"
    run(admin, read(ROLLBACK))
    assert dump_schema(database) == before
    run(admin, rebuild_file("things", "id bigint not null, name text, amount integer, more text"), until="swap")


def test_another_order_of_columns(admin: Connection, database: Database) -> None:
    """Nothing else minds it: extended statistics, for one, which PostgreSQL writes in the table's order."""
    deploy(admin)
    admin.execute(
        "create table public.things (id bigint primary key, name text, amount integer); "
        "create statistics public.stats on name, amount from public.things; create index i on public.things (name, amount); "
        "create view public.v as select * from public.things; grant select (amount) on public.things to anon; "
        "create function public.f() returns setof public.things language sql as 'select * from public.things'; "
        "create publication p for table public.things (id, amount); alter table public.things add check (amount > id)"
    )
    before = dump_schema(database)
    run(admin, rebuild_file("things", "amount integer, id bigint not null, name text"))
    stats = "select pg_get_statisticsobjdef(oid) from pg_statistic_ext where stxrelid = 'public.things'::regclass"
    assert admin.execute(stats).fetchall() == [("CREATE STATISTICS public.stats ON amount, name FROM things",)]
    assert [part for part in dump_schema(database) if "VIEW" in part] == [part for part in before if "VIEW" in part]
    run(admin, read(ROLLBACK))
    assert dump_schema(database) == before
