"""What a table has is there again after it was rebuilt, under the old names, and still so after the way back."""

from __future__ import annotations

import psycopg
import pytest
from local_supabase import Database
from schema_dump import dump_schema
from step_runner import ROLLBACK, Connection, deploy, read, rebuild_file, run

# Each is made on public.things (id bigint primary key, name text, amount integer), which has three rows. The rebuilt table
# is defined by the step file as (id, name, amount) and nothing else.
CARRIED = {
    "a column with a default": "alter table public.things add more text collate \"C\" not null default 'none'",
    "a generated column": (
        "alter table public.things add twice integer generated always as (amount * 2) stored, "
        "add more integer default 3, add sum integer generated always as (amount + more) stored"
    ),
    "an identity column": (
        "alter table public.things add number integer generated always as identity (start 100 increment 5 cache 3)"
    ),
    "a serial column": "alter table public.things add number serial",
    "a default in SQL": "alter table public.things add code uuid not null default gen_random_uuid()",
    "indexes": (
        "create index on public.things (name); create index partial on public.things (amount) where amount > 1; "
        "create index expression on public.things using hash (lower(name)); "
        "create unique index things_unique on public.things (name desc nulls last) include (amount) with (fillfactor = 70); "
        "alter table public.things add constraint named unique nulls not distinct (amount, name); "
        "comment on index partial is 'an index'"
    ),
    "check constraints": (
        "alter table public.things add constraint positive check (amount > 0), "
        "add constraint later check (amount < 3) not valid; comment on constraint positive on public.things is 'a check'"
    ),
    "foreign keys": (
        "create table public.names (name text primary key); insert into public.names values ('a'), ('b'), ('c'); "
        "alter table public.things add constraint named foreign key (name) references public.names on delete cascade, "
        "add constraint later foreign key (name) references public.names deferrable initially deferred not valid"
    ),
    "triggers": (
        "create function public.touch() returns trigger language plpgsql as "
        "$$ begin insert into public.touched values (tg_name); return new; end $$; "
        "create table public.touched (name text); "
        "create trigger plain before update of amount on public.things for each row when (new.amount > 5) "
        "execute function public.touch('it''s'); "
        "create trigger disabled after insert on public.things for each row execute function public.touch(); "
        "create trigger always after insert on public.things for each statement execute function public.touch(); "
        "create trigger replica after insert on public.things for each row execute function public.touch(); "
        "create constraint trigger deferred after insert on public.things deferrable initially deferred "
        "for each row execute function public.touch(); "
        "alter table public.things disable trigger disabled, enable always trigger always, "
        "enable replica trigger replica; comment on trigger plain on public.things is 'a trigger'"
    ),
    "policies": (
        "alter table public.things enable row level security, force row level security; "
        "create policy \"see 'em\" on public.things for select to anon, authenticated using (amount > 0); "
        "create policy add on public.things as restrictive for insert with check (name is not null); "
        "create policy own on public.things using (id in (select t.id from public.things as t where t.amount = 1)); "
        "comment on policy own on public.things is 'a policy'"
    ),
    "rights": (
        "revoke all on public.things from anon, authenticated, service_role; "
        "grant select on public.things to public; grant all on public.things to service_role with grant option; "
        "grant select (name), update (amount, name) on public.things to authenticated; "
        "grant references on public.things to anon"
    ),
    "comments": (
        "comment on table public.things is 'it''s a table'; comment on column public.things.name is '100% a column'"
    ),
    "membership in publications": (
        "create publication changes for table public.things (id, name) where (amount > 1); "
        "alter publication supabase_realtime add table public.things; "
        "alter table public.things replica identity full"
    ),
    "replica identity by index": (
        "alter table public.things add code uuid not null default gen_random_uuid(); "
        "create unique index by_code on public.things (code); alter table public.things replica identity using index by_code"
    ),
    "foreign keys that point at it": (
        "create table public.parts (id integer primary key, thing bigint constraint belongs references public.things "
        "on delete cascade, other bigint); insert into public.parts values (1, 1, 9); "
        "alter table public.parts add constraint later foreign key (other) references public.things not valid; "
        "comment on constraint belongs on public.parts is 'a foreign key'"
    ),
    "a foreign key that points at itself": (
        "alter table public.things add parent bigint constraint tree references public.things on delete cascade; "
        "update public.things set parent = 1 where id = 2; comment on constraint tree on public.things is 'a tree'"
    ),
    "views": (
        "create view public.big with (security_invoker = true, security_barrier = true) as "
        "select * from public.things where amount > 1; "
        "create view public.joined as select b.id, t.name from public.big as b join public.things as t using (id) "
        "join auth.users as u on true; create view public.counted as select id, name from public.things group by id; "
        "revoke all on public.big from anon; comment on view public.big is 'a view'"
    ),
    "storage options": "alter table public.things set (fillfactor = 70, autovacuum_enabled = false, toast.autovacuum_enabled = false)",
    "clustering": "cluster public.things using things_pkey",
}  # fmt: skip
COLUMNS = "id bigint not null, name text, amount integer"
STEP_FILE = rebuild_file("things", COLUMNS)


@pytest.fixture
def things(admin: Connection) -> Connection:
    """A connection to a database with the functions and a small table."""
    deploy(admin)
    admin.execute(
        "create table public.things (id bigint primary key, name text, amount integer); "
        "insert into public.things values (1, 'a', 1), (2, 'b', 2), (3, 'c', 3)"
    )
    return admin


def contents(connection: Connection, table: str = "public.things") -> list[str]:
    """All rows, whatever columns they have."""
    rows = connection.execute(f"select to_jsonb(t)::text from {table} as t order by 1")
    return [row[0] for row in rows.fetchall()]


@pytest.mark.parametrize("definition", CARRIED.values(), ids=CARRIED)
def test_carried_over(things: Connection, database: Database, definition: str) -> None:
    """The table's definition is the same after the swap and after the rollback; so are its rows."""
    things.execute(definition)
    before, rows = dump_schema(database), contents(things)

    run(things, STEP_FILE)
    assert dump_schema(database) == before
    assert contents(things) == rows

    run(things, read(ROLLBACK))
    assert dump_schema(database) == before
    assert contents(things) == rows


def test_positions_of_sequences(things: Connection) -> None:
    """Numbers go on where they were, forward and back."""
    things.execute("alter table public.things add number integer generated by default as identity, add again serial")
    insert = "insert into public.things values ({}) returning number, again"
    assert things.execute(insert.format(4)).fetchone() == (4, 4)
    run(things, STEP_FILE)
    assert things.execute(insert.format(5)).fetchone() == (5, 5)
    run(things, read(ROLLBACK))
    assert things.execute(insert.format(6)).fetchone() == (6, 6)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("bigserial", "bigserial"),
        ("bigserial", "bigint generated by default as identity"),
        ("bigint generated always as identity", "bigint generated always as identity"),
    ],
)
def test_numbered_key_of_both_tables(admin: Connection, old: str, new: str) -> None:
    """The usual numbered key, defined in the step file as well: no two sequences get in each other's way."""
    deploy(admin)
    admin.execute(f"create table public.things (id {old} primary key, name text)")
    admin.execute(
        "grant usage on all sequences in schema public to authenticated; grant insert, select on public.things to authenticated"
    )
    admin.execute("insert into public.things (name) values ('a'), ('b')")
    insert = "set role authenticated; insert into public.things (name) values ('new'); reset role"
    run(admin, rebuild_file("things", f"id {new}, name text"))
    admin.execute(insert)
    run(admin, read(ROLLBACK))
    admin.execute(insert)
    assert admin.execute("select array_agg(id order by id) from public.things").fetchone() == ([1, 2, 3, 4],)
    assert admin.execute("select pg_get_serial_sequence('public.things', 'id')").fetchone() == ("public.things_id_seq",)


def test_triggers_fire_for_the_application_only(things: Connection) -> None:
    """Neither the copy nor the replay fires them, in either direction; a write after the swap does."""
    things.execute(CARRIED["triggers"])
    trigger = (
        "\n-- step: a trigger of the new table\ncreate trigger noisy after insert or update or delete on rpc_migrations.things "
        "for each row execute function public.touch();\n"
    )
    for call in (*run(things, rebuild_file("things", COLUMNS, trigger), until="carry over"), None):
        assert call is None or call.answer["state"] == "done" or call.step == "carry over"
    things.execute("update public.things set amount = 9 where id = 1")
    fired = contents(things, "public.touched")
    run(things, rebuild_file("things", COLUMNS, trigger))
    assert contents(things, "public.touched") == fired
    things.execute("update public.things set amount = 10 where id = 1")
    assert len(contents(things, "public.touched")) == len(fired) + 2  # plain and noisy
    fired = contents(things, "public.touched")
    run(things, read(ROLLBACK))
    assert contents(things, "public.touched") == fired
    things.execute("update public.things set amount = 11 where id = 1")
    assert len(contents(things, "public.touched")) == len(fired) + 1


def test_a_tree_survives_the_way_back(things: Connection) -> None:
    """Rows that point at a changed row of their own table, on delete cascade, stay when that row is replayed."""
    things.execute(CARRIED["a foreign key that points at itself"])
    run(things, STEP_FILE)
    things.execute("update public.things set amount = 5 where id = 1")
    rows = contents(things)
    run(things, read(ROLLBACK))
    assert contents(things) == rows
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        things.execute("update public.things set parent = 99 where id = 3")


OBSTACLES = {
    "no primary key": ("alter table public.things drop constraint things_pkey", "no primary key"),
    "unlogged": ("alter table public.things set unlogged", "unlogged"),
    "a materialized view": ("create materialized view public.sums as select sum(amount) from public.things", "sums"),
    "a view on a materialized view": (
        "create view public.v as select * from public.things; create materialized view public.sums as select * from public.v", ""
    ),
    "a child": ("create table public.child () inherits (public.things)", "child"),
    "an exclusion constraint": (
        "alter table public.things add constraint one exclude using btree (amount with =)", "one excludes"
    ),
    "a rule": ("create rule quiet as on delete to public.things do also notify gone", "rule quiet"),
    "a function with an SQL body": (
        "create function public.total() returns bigint begin atomic select sum(amount) from public.things; end", "total"
    ),
    "a policy of another table": (
        "create table public.other (id bigint); create policy mentions on public.other using (id in (select id from public.things))",
        "mentions",
    ),
    "a function of its rows": (
        "create function public.title(public.things) returns text language sql as 'select $1.name'", "title"
    ),
    "a column of its row type": ("create table public.other (thing public.things)", "thing of table"),
    "extended statistics": ("create statistics public.stats on name, amount from public.things", "stats"),
    "column settings": ("alter table public.things alter name set storage external", "column name"),
    "statistics target": ("alter table public.things alter name set statistics 500", "column name"),
    "a partitioned table that points at it": (
        "create table public.other (id bigint references public.things) partition by range (id)", "partitioned table"
    ),
}  # fmt: skip
FREE = {"a view on a materialized view"}  # a materialized view keeps its own data; only the view is carried over


@pytest.mark.parametrize(("definition", "named"), OBSTACLES.values(), ids=OBSTACLES)
def test_obstacle_is_refused(
    things: Connection, database: Database, definition: str, named: str, request: pytest.FixtureRequest
) -> None:
    """By name, with nothing changed, before any row is copied."""
    things.execute(definition)
    before = dump_schema(database)
    if request.node.callspec.id in FREE:
        run(things, STEP_FILE)
        assert dump_schema(database) == before
        return
    with pytest.raises(psycopg.Error) as caught:
        run(things, STEP_FILE)
    assert caught.value.sqlstate == "RM001"
    assert named in str(caught.value)
    assert "Nothing was changed" in (caught.value.diag.message_hint or "")
    assert dump_schema(database) == before
    run(things, read(ROLLBACK))
    assert (
        things.execute(
            "select from pg_class where relnamespace = 'rpc_migrations'::regnamespace and relname = 'things'"
        ).fetchone()
        is None
    )


@pytest.mark.parametrize(
    ("definition", "named"),
    [
        ("create table public.whole (id bigint primary key, name text, amount integer) partition by range (id)", "not an ordinary table"),
        (
            "create table public.parent (id bigint primary key, name text, amount integer) partition by range (id); "
            "create table public.whole partition of public.parent default",
            "partition",
        ),
        ("create table public.parent (name text); create table public.whole (id bigint primary key, amount integer) inherits (public.parent)", "inherits"),
        ("create view public.whole as select 1::bigint as id, 'x'::text as name, 2 as amount", "not an ordinary table"),
    ],
    ids=["partitioned", "partition", "inherits", "view"],
)  # fmt: skip
def test_other_relations_are_refused(things: Connection, definition: str, named: str) -> None:
    things.execute(definition)
    with pytest.raises(psycopg.Error, match=named) as caught:
        run(things, rebuild_file("whole", COLUMNS))
    assert caught.value.sqlstate == "RM001"


def test_obstacle_that_comes_later(things: Connection, database: Database) -> None:
    """One that appears between the beginning and the swap stops the swap, and nothing has changed."""
    run(things, STEP_FILE, until="compare")
    things.execute(OBSTACLES["a materialized view"][0])
    with pytest.raises(psycopg.Error, match="sums") as caught:
        run(things, STEP_FILE)
    assert caught.value.sqlstate == "RM003"
    things.execute("drop materialized view public.sums")
    run(things, STEP_FILE)


HOSTILE = {
    "quotes": "a \"b\" 'c'",
    "blanks and upper case": "My Table",
    "unicode": "Tabelle_äöü_表",
    "percent": "100% %s %I %1$s",
    "dollar": "a$sql$b$body$c$function$",
    "63 bytes": "x" * 63,
    "63 bytes in umlauts": "ä" * 31 + "x",
    "a word of SQL": "select",
    "backslash": "back\\slash",
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names(admin: Connection, database: Database, name: str) -> None:
    """Table, columns, key, index, check, trigger, policy, view, role and publication of that name."""
    deploy(admin)
    q = '"' + name.replace('"', '""') + '"'
    role = '"' + ("role " + name)[:40].replace('"', '""') + '"'
    admin.execute(f"create role {role}")
    try:
        admin.execute(f"create schema {q}")
        admin.execute(f"create table {q}.{q} ({q} text primary key, amount integer, constraint {q} check (amount > 0))")
        admin.execute(f"create function {q}.{q}() returns trigger language plpgsql as 'begin return new; end'")
        admin.execute(f"create trigger {q} before insert on {q}.{q} for each row execute function {q}.{q}()")
        admin.execute(f"create index on {q}.{q} (amount)")
        admin.execute(f"create policy {q} on {q}.{q} to {role} using ({q} <> 'x')")
        admin.execute(f"create view {q}.v as select * from {q}.{q}")
        admin.execute(f"create table {q}.w (w text constraint {q} references {q}.{q})")
        admin.execute(f"grant select ({q}) on {q}.{q} to {role}; grant update on {q}.{q} to {role}")
        admin.execute(f"create publication {q} for table {q}.{q}")
        admin.execute(f"insert into {q}.{q} values ('a', 1), ('b', 2)")
        before = dump_schema(database)
        text = rebuild_file(q, f"{q} text not null, amount integer", schema=q).replace(
            "-- step: replay (batch)",
            f"-- step: write\nupdate {q}.{q} set amount = 5; delete from {q}.{q} where {q} = 'b';\n\n-- step: replay (batch)",
        )
        run(admin, text)
        assert dump_schema(database) == before
        assert admin.execute(f"select amount from {q}.{q}").fetchall() == [(5,)]
        run(admin, read(ROLLBACK))
        assert dump_schema(database) == before
        assert admin.execute(f"select amount from {q}.{q}").fetchall() == [(5,)]
    finally:
        with database.connect("supabase_admin") as superuser:
            superuser.execute(f"drop owned by {role}; drop role {role}")


def test_names_that_would_meet(things: Connection, database: Database) -> None:
    """Two indexes whose names would become the same beside the backup's."""
    things.execute("create index things_name on public.things (name); create index name on public.things (amount)")
    before = dump_schema(database)
    run(things, STEP_FILE)
    assert dump_schema(database) == before
    run(things, read(ROLLBACK))
    assert dump_schema(database) == before


def test_options_that_postgresql_keeps_for_itself(things: Connection, database: Database) -> None:
    """Those that begin with pg_ are no setting of anybody's: since November 2026 every column has one."""
    things.execute("alter table public.things set (fillfactor = 70)")
    with database.connect("supabase_admin") as superuser:
        superuser.execute(
            "update pg_attribute set attoptions = '{pg_attver=35471856}' where attrelid = 'public.things'::regclass"
        )
        superuser.execute(
            "update pg_class set reloptions = '{pg_later=1,fillfactor=70}' where oid = 'public.things'::regclass"
        )
    run(things, STEP_FILE)
    options = things.execute("select reloptions from pg_class where oid = 'public.things'::regclass").fetchone()
    assert options == (["fillfactor=70"],)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("update pg_trigger set tgenabled = 'X' where tgname = 'known'", "trigger known"),
        ("update pg_policy set polcmd = 'x' where polname = 'known'", "policy known"),
        ("update pg_class set relreplident = 'x' where relname = 'things'", "its replica identity"),
        ("update pg_attribute set attidentity = 'x' where attname = 'amount'", "column amount"),
    ],
)
def test_what_a_later_postgresql_may_have_is_refused(
    things: Connection, database: Database, change: str, reason: str
) -> None:
    """A letter in the catalogs that we do not know stands for something that we cannot carry."""
    things.execute(
        "create policy known on public.things; create trigger known after insert on public.things "
        "for each statement execute function suppress_redundant_updates_trigger()"
    )
    with database.connect("supabase_admin") as superuser:
        superuser.execute(change.encode())
    with pytest.raises(psycopg.Error, match=f"{reason} is of a kind that is not known here") as caught:
        run(things, STEP_FILE)
    assert caught.value.sqlstate == "RM001"
