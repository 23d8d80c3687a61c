"""Triggers of a table that is not in use are off, whoever writes to it."""

from __future__ import annotations

import pytest
from step_runner import ROLLBACK, Connection, deploy, read, rebuild_file, run

STEP_FILE = rebuild_file("orders", "id integer not null, name text")
TRIGGERS = """
create table public.audit (operation text);
create function public.audit() returns trigger language plpgsql as $$ begin insert into public.audit values (tg_op); return null; end $$;
create table public.customers (name text primary key);
create table public.orders (id integer primary key, name text references public.customers on delete cascade);
create trigger audit after delete on public.orders for each row execute function public.audit();
create trigger always after delete on public.orders for each row execute function public.audit();
create trigger never after delete on public.orders for each row execute function public.audit();
create constraint trigger later after delete on public.orders deferrable initially deferred for each row execute function public.audit();
alter table public.orders enable always trigger always, disable trigger never;
insert into public.customers select unnest('{a,b,c,d}'::text[]);
insert into public.orders select n, substr('abcd', 1 + n % 4, 1) from generate_series(1, 40) as n;
"""
FIRING = 3  # of the four


def audited(connection: Connection) -> int:
    """How many rows the triggers have written since the last time."""
    return connection.execute("delete from public.audit where true").rowcount


@pytest.mark.parametrize("rollbacks", [0, 1, 2])
def test_an_audit_trigger_fires_once(admin: Connection, rollbacks: int) -> None:
    """For a deletion that reaches the tables that were moved aside as well, however many of them there are."""
    deploy(admin)
    admin.execute(TRIGGERS)
    for _ in range(rollbacks):
        run(admin, STEP_FILE)
        run(admin, read(ROLLBACK))
    for text in (STEP_FILE, read(ROLLBACK)):
        run(admin, text)
        assert audited(admin) == 0
        with admin.transaction():
            admin.execute("delete from public.customers where name = (select min(name) from public.customers)")
        assert audited(admin) == FIRING * 10


def test_their_states_come_back(admin: Connection) -> None:
    deploy(admin)
    admin.execute(TRIGGERS)
    states = "select tgname, tgenabled from pg_trigger where tgrelid = 'public.orders'::regclass and not tgisinternal order by 1"
    before = admin.execute(states).fetchall()
    for text in (STEP_FILE, read(ROLLBACK)):
        run(admin, text)
        assert admin.execute(states).fetchall() == before
