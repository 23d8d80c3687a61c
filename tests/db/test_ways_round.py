"""What is in the way of a rebuild can be taken away and put back by the statements that the refusal has, and nothing of it is lost."""

from __future__ import annotations

import re

import psycopg
import pytest
from local_supabase import Database
from schema_dump import dump_schema
from step_runner import ROLLBACK, Connection, read, rebuild_file, run

STEP_FILE = rebuild_file("things", "id bigint not null, name text, amount integer")

# What a dump leaves out: comments and states of what partitions have from above, and what is a child's own.
DETAILS = """
select concat_ws(' ', i.type, i.identity, d.description)
from pg_description as d cross join pg_identify_object(d.classoid, d.objoid, d.objsubid) as i
where i.identity !~ 'rpc_migrations|_backup' and i.schema is distinct from 'pg_catalog'
union all
select concat_ws(' ', a.attrelid::regclass, a.attname, a.attislocal, a.attinhcount)
from pg_attribute as a inner join pg_class as c on c.oid = a.attrelid
where c.relnamespace = 'public'::regnamespace and c.relname !~ '_backup' and a.attnum > 0
union all
select concat_ws(' ', c.conrelid::regclass, c.conname, c.conislocal, c.coninhcount, c.convalidated)
from pg_constraint as c where c.connamespace = 'public'::regnamespace and c.conrelid::regclass::text !~ '_backup'
union all
select concat_ws(' ', t.tgrelid::regclass, t.tgname, t.tgenabled, t.tgparentid <> 0)
from pg_trigger as t where not t.tgisinternal and t.tgrelid::regclass::text !~ '_backup'
union all
select concat_ws(' ', i.inhrelid::regclass, i.inhparent::regclass, i.inhseqno) from pg_inherits as i
union all
select concat_ws(' ', i.indexrelid::regclass, i.indisclustered, i.indisreplident, i.indisvalid, c.reltablespace)
from pg_index as i inner join pg_class as c on c.oid = i.indexrelid
where c.relnamespace = 'public'::regnamespace and i.indrelid::regclass::text !~ '_backup'
"""

FUNCTION = "create function public.f() returns trigger language plpgsql as 'begin return new; end'; "
# Each may begin with "superuser ", who then runs it, and the statements of the refusal.
WAYS = {
    "materialized view": (
        "create materialized view public.sums with (fillfactor = 70, toast.autovacuum_enabled = false) as "
        "select id, name, lower(name) as low, amount from public.things where name::varchar(9) in ('a', 'b') and amount between 1 and 9 and id > 0; "
        "alter materialized view public.sums rename low to small; "
        "alter materialized view public.sums alter name set statistics 300, alter small set storage external, "
        "alter small set compression pglz; alter table public.sums alter amount set (n_distinct = 5); "
        "create unique index sums_id on public.sums (id) with (fillfactor = 80); create index low on public.sums (lower(name)) where id > 0; "
        "alter index public.low alter column 1 set statistics 70; alter index public.low depends on extension plpgsql; "
        "alter materialized view public.sums cluster on sums_id; alter table public.sums replica identity full; "
        "alter materialized view public.sums depends on extension plpgsql; create schema elsewhere; create statistics public.pairs on name, amount from public.sums; "
        "create statistics elsewhere.pairs (mcv) on (name::varchar(9) in ('a', 'b') and (amount between 1 and 9)), amount from public.sums; "
        "alter statistics public.pairs set statistics 50; comment on statistics public.pairs is 'pairs'; "
        "comment on materialized view public.sums is 'it''s'; comment on column public.sums.small is '100% small'; comment on index public.low is 'low'"
    ),
    "rights on a materialized view": (
        "superuser set role postgres; create schema more; grant usage, create on schema more to keeper; grant usage on schema more to authenticated; "
        "alter default privileges grant all on tables to dashboard_user; "
        "create materialized view more.sums as select id, name from public.things; "
        "revoke all on more.sums from anon, authenticated, dashboard_user; grant select (name) on more.sums to anon with grant option; "
        "grant select, insert on more.sums to authenticated with grant option; set role authenticated; grant select on more.sums to anon; reset role; "
        "alter materialized view more.sums owner to keeper; revoke truncate on more.sums from keeper"
    ),
    "materialized view without rows": "create materialized view public.sums as select id, things as thing from public.things with no data",
    "materialized view with a hostile name": (
        "create materialized view public.\"a'b%s\\ \"\"q\" as select id, name as \"n'%I\"\"x\" from public.things; "
        "comment on column public.\"a'b%s\\ \"\"q\".\"n'%I\"\"x\" is E'a\\nb'; create index \"i'%s\" on public.\"a'b%s\\ \"\"q\" (\"n'%I\"\"x\"); "
        "create view public.\"v'b%s\\ \"\"q\" as select * from public.\"a'b%s\\ \"\"q\""
    ),
    "what stands on two materialized views": (
        "create materialized view public.m1 as select id from public.things; create materialized view public.m2 as select id from public.things; "
        "create view public.v as select things.id from public.m1, public.m2, public.things; "
        "create function public.may(bigint) returns boolean stable begin atomic select exists (select from public.m1 where id = $1); end; "
        "create policy mine on public.things using (public.may(id)); comment on policy mine on public.things is 'm'; "
        "create table public.other (id bigint constraint may check (public.may(id)))"
    ),
    "what stands on a materialized view": (
        "create materialized view public.sums as select id, name from public.things; "
        "create view public.v with (security_barrier, security_invoker = on) as select id, name collate \"C\" as title, null::numeric(9, 2) as p from public.sums; "
        "create function public.g() returns trigger language plpgsql as 'begin return new; end'; "
        "create trigger instead instead of insert on public.v for each row execute function public.g(); "
        "create rule none as on delete to public.v do instead nothing; alter view public.v alter title set default 'x'; "
        "comment on view public.v is 'v'; comment on column public.v.title is 't'; comment on trigger instead on public.v is 'i'; "
        "comment on rule none on public.v is 'n'; grant select (title) on public.v to anon; revoke insert on public.v from anon; "
        "create view public.on_v as select title from public.v; "
        "create materialized view public.second as select id from public.sums; create unique index on public.second (id); "
        # direct on the table and, by a view, on the other: it has to come after both
        "create materialized view public.both as select t.id from public.things as t inner join public.v using (id); "
        "create function public.count_of() returns bigint stable begin atomic select count(*) from public.sums; end; "
        "revoke all on function public.count_of from public, anon; grant execute on function public.count_of to authenticated with grant option; "
        "comment on function public.count_of is 'c'; alter function public.count_of depends on extension plpgsql; "
        "create view public.counted as select public.count_of() as n; "
        "create function public.title(public.sums) returns text language sql stable as 'select $1.name'; "
        "create materialized view public.titled as select public.title(s) as t from public.sums as s; "
        "create table public.other (id bigint default 'public.sums'::regclass::oid::bigint primary key); alter table public.other enable row level security; "
        "create policy about on public.other as restrictive for select to anon using (exists (select from public.sums where sums.id = other.id)); "
        "comment on policy about on public.other is 'p'; create rule noted as on insert to public.other do also select * from public.sums; "
        "alter table public.other disable rule noted; comment on rule noted on public.other is 'r'"
    ),
    "foreign key of a partitioned table": (
        "create table public.other (id bigint, day integer) partition by range (day); "
        "create table public.other_1 partition of public.other for values from (0) to (9) partition by range (day); "
        "create table public.other_1_1 (id bigint, day integer, constraint own_name foreign key (id) references public.things on delete cascade deferrable); "
        "alter table public.other_1 attach partition public.other_1_1 for values from (0) to (5); "
        "create table public.other_2 partition of public.other default; "
        "alter table public.other add constraint points foreign key (id) references public.things on delete cascade deferrable; "
        "comment on constraint points on public.other is 'f'; comment on constraint own_name on public.other_1_1 is 'own'; "
        "comment on constraint points on public.other_2 is 'f2'"
    ),
    "constraint trigger": (
        FUNCTION + "create table public.other (id bigint); "
        "create constraint trigger checked after insert on public.other from public.things deferrable initially deferred for each row execute function public.f(); "
        "create constraint trigger off after insert on public.other from public.things for each row execute function public.f(); "
        "create constraint trigger \"Re\" after insert on public.other from public.things for each row when (new.id > 1) execute function public.f(); "
        "alter table public.other disable trigger off, enable always trigger checked, enable replica trigger \"Re\"; "
        "comment on trigger checked on public.other is 'c'; alter trigger off on public.other depends on extension plpgsql"
    ),
    "trigger of a partitioned table with it as a value": (
        FUNCTION + "create table public.other (id bigint, day integer) partition by range (day); "
        "create table public.other_1 partition of public.other for values from (0) to (9); create table public.other_2 partition of public.other default; "
        "create trigger seen after insert on public.other for each row when (new.id <> 'public.things'::regclass::oid::bigint) execute function public.f(); "
        "alter table public.other disable trigger seen; alter table public.other_1 enable trigger seen; alter table public.other_2 enable always trigger seen; "
        "comment on trigger seen on public.other is 'c'; comment on trigger seen on public.other_2 is 'c2'"
    ),
    "check, index, default of a partitioned table with it as a value": (
        "create table public.other (id bigint, day integer, ref regclass default 'public.things'::regclass, "
        "constraint no check (ref <> 'public.things'::regclass)) partition by range (day); "
        "create table public.other_1 partition of public.other for values from (0) to (9); create table public.other_2 partition of public.other default; "
        "alter table public.other_1 alter ref set default 'public.other_2'::regclass; "
        "comment on constraint no on public.other is 'n'; comment on constraint no on public.other_2 is 'n2'; "
        "create index named on only public.other (id) where ref <> 'public.things'::regclass; "
        "create index own_name on public.other_1 (id) where ref <> 'public.things'::regclass; "
        "create index other_name on public.other_2 (id) where ref <> 'public.things'::regclass; "
        "alter index public.named attach partition public.own_name; alter index public.named attach partition public.other_name; "
        "comment on index public.named is 'i'; comment on index public.own_name is 'i1'; "
        "create table public.more (id bigint default 'public.things'::regclass::oid::bigint constraint more_no check (id <> 'public.things'::regclass::oid::bigint)); "
        "create table public.child () inherits (public.more); alter table public.child alter id set default 7; "
        "create table public.child_too (constraint more_no check (id <> 'public.things'::regclass::oid::bigint)) inherits (public.more); "
        "comment on constraint more_no on public.child is 'c'; alter table public.child add constraint own_no check (id <> 'public.things'::regclass::oid::bigint) not valid"
    ),
    "index with it as a value": (
        "create table public.other (id bigint primary key, ref regclass); "
        "create index expressed on public.other ((ref = 'public.things'::regclass)); alter table public.other cluster on expressed; "
        "alter index public.expressed alter column 1 set statistics 70; comment on index public.expressed is 'i'; "
        "alter index public.expressed depends on extension plpgsql; "
        "create index own on public.things ((id = 'public.things'::regclass::oid::bigint)); comment on index public.own is 'o'; "
        "alter table public.things add constraint apart exclude using btree (amount with =) where (id <> 'public.things'::regclass::oid::bigint); "
        "comment on constraint apart on public.things is 'a'; comment on index public.apart is 'ai'"
    ),
    "statistics with it as a value": (
        "create table public.other (id bigint primary key, ref regclass); "
        "create statistics public.counting on (ref::oid = 'public.things'::regclass::oid), id from public.other; "
        "grant create on schema public to keeper; alter statistics public.counting owner to keeper; alter statistics public.counting set statistics 50; comment on statistics public.counting is 's'"
    ),
    "default of a view that draws from its sequence": (
        "alter table public.things add number bigint generated always as identity; create table public.other (number bigint); "
        "create view public.v as select number from public.other; alter view public.v alter number set default nextval('public.things_number_seq')"
    ),
    "partition": (
        FUNCTION + "create table public.whole (id bigint not null, name text, amount integer) partition by range (id); "
        "alter table public.whole attach partition public.things default; comment on constraint things_pkey on public.things is 'k'; "
        "create trigger seen after insert on public.whole for each row execute function public.f(); "
        "create trigger many after insert on public.whole for each row execute function public.f(); "
        "alter table public.things enable always trigger seen; comment on trigger many on public.things is '100% m'"
    ),
    "several parents": (
        "create table public.p1 (name text); create table public.p2 (amount integer constraint few check (amount < 99)); "
        "alter table public.things add constraint few check (amount < 99), inherit public.p1, inherit public.p2"
    ),
    "rights by several others": (
        "superuser grant select on public.things to keeper with grant option; set role keeper; "
        "grant select on public.things to authenticated with grant option; "
        "set role authenticated; grant select on public.things to service_role; reset role; "
        "grant insert (name), update (amount) on public.things to keeper with grant option; set role keeper; grant update (amount), insert (name) on public.things to anon; reset role; "
        "revoke truncate, references on public.things from postgres"
    ),
    "owner": (
        "superuser alter table public.things add number serial; alter table public.things owner to keeper; "
        "grant select on public.things to postgres with grant option; grant update (name) on public.things to postgres; "
        "grant usage on sequence public.things_number_seq to postgres"
    ),
    "owner alone": "superuser alter table public.things owner to keeper",
    "policy on a table of another role": (
        "superuser create policy about on auth.users as restrictive for select to anon using (exists (select from public.things)); "
        "comment on policy about on auth.users is 'p'"
    ),
}  # fmt: skip


def ways(things: Connection, text: str = STEP_FILE) -> tuple[str, str]:
    """The statements that take away what is in the way, and those that put it back."""
    with pytest.raises(psycopg.Error, match=r"cannot be (rebuilt|rolled back)") as caught:
        run(things, text)
    detail = (caught.value.diag.message_detail or "").split("\nStatement")[0]
    _, away, back = re.split("To remove before:\n|To put back afterwards:\n", detail)
    return away, back


@pytest.mark.usefixtures("keeper")
@pytest.mark.parametrize("kind", WAYS)
def test_nothing_is_lost(things: Connection, database: Database, kind: str) -> None:
    """The dump is the same afterwards, and so is what a dump leaves out."""
    definition = WAYS[kind]
    with database.connect("supabase_admin") as superuser:
        connection = superuser if definition.startswith("superuser ") else things
        connection.execute(definition.removeprefix("superuser ").encode())
        before = dump_schema(database), sorted(superuser.execute(DETAILS).fetchall())
        away, back = ways(things)
        assert "; ;" not in away + back, "a statement of nothing"
        connection.execute(away.encode())
        run(things, STEP_FILE)
        connection.execute(back.encode())
        assert (dump_schema(database), sorted(superuser.execute(DETAILS).fetchall())) == before


def test_the_order_of_foreign_keys_of_partitioned_tables(things: Connection) -> None:
    """It stays among them; where other keys acted after one of them, the statements say that this is the other way round then."""
    things.execute(
        "create table public.p1 (id bigint references public.things) partition by range (id); "
        "create table public.k (id bigint references public.things); "
        "create table public.p2 (id bigint references public.things) partition by range (id)"
    )
    query = (
        "select relname from pg_constraint as k inner join pg_class as c on c.oid = k.conrelid "
        "where confrelid = 'public.things'::regclass order by rpc_migrations.acts_by(k.oid)"
    )
    assert [row[0] for row in things.execute(query)] == ["p1", "k", "p2"]
    away, back = ways(things)
    assert [line for line in back.splitlines() if line.startswith("--")] == [
        "-- From here on it acts after the foreign keys of others that point at public.things."
    ]
    assert back.splitlines()[1].startswith("alter table public.p1")
    things.execute(away.encode())
    run(things, STEP_FILE)
    things.execute(back.encode())
    assert [row[0] for row in things.execute(query)] == ["k", "p1", "p2"]


def test_what_cannot_be_inherited_again_is_said(things: Connection, database: Database) -> None:
    """Columns and constraints become the child's own, and a parent the last one; all else is as before."""
    things.execute(
        "create table public.p (rank integer constraint few check (rank < 9)); "
        "create table public.child (own integer) inherits (public.things, public.p)"
    )
    with database.connect("supabase_admin") as superuser:
        before = sorted(superuser.execute(DETAILS).fetchall())
        away, back = ways(things)
        assert away.splitlines() == [
            "-- From here on the columns and constraints of public.child are its own as well:",
            "-- what public.things drops later, it keeps.",
            "-- public.things comes after the other parents of public.child then.",
            "alter table public.child no inherit public.things;",
        ]
        things.execute(away.encode())
        run(things, STEP_FILE)
        things.execute(back.encode())
        after = sorted(superuser.execute(DETAILS).fetchall())
    changed = {row[0] for row in set(before) ^ set(after) if "not_null" not in row[0]}  # which are constraints since 18
    assert changed == {
        *(f"child {name} {local} 1" for name in ("id", "name", "amount") for local in "ft"),
        "child things 1", "child things 3",
    }  # fmt: skip


def test_a_rollback_has_them_too(things: Connection, database: Database) -> None:
    """What was put back after the migration is in the way of the way back."""
    things.execute(WAYS["what stands on a materialized view"].encode())
    before = dump_schema(database)
    for text in (STEP_FILE, read(ROLLBACK)):
        away, back = ways(things, text)
        things.execute(away.encode())
        run(things, text)
        things.execute(back.encode())
        assert dump_schema(database) == before
