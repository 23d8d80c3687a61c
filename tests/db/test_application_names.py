"""What the application has under a name that a migration would use stays as it is."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from local_supabase import Cluster, Database, create_old_table
from projects import one, table_as_it_is
from schema_dump import dump_schema
from step_runner import DB, MIGRATION, ROLLBACK, Connection, deploy, read, rebuild_file, run, run_file, short_way

OWN_FUNCTION = (
    "create function public.set_user_clusters_updated_at() returns trigger language plpgsql as "
    "$$ begin new.updated_at := '2020-01-01'; return new; end $$; "
    "grant execute on function public.set_user_clusters_updated_at() to anon"
)
OWN_TRIGGER = (
    "create trigger set_user_clusters_updated_at before insert on public.user_clusters "
    "for each row execute function public.set_user_clusters_updated_at()"
)
FUNCTION = (
    "select pg_get_functiondef(oid) || proacl::text from pg_proc where proname = 'set_user_clusters_updated_at' "
    "and pronamespace = 'public'::regnamespace"
)
TRIGGERS = (
    "select array_agg(format('%s %s', tgname, tgfoid::regproc) order by tgname) from pg_trigger "
    "where tgrelid = 'public.user_clusters'::regclass and tgname ~ '^set_'"
)


@pytest.fixture
def clusters(admin: Connection) -> Connection:
    """A connection to a database with the functions and an old table of ten rows."""
    deploy(admin)
    create_old_table(admin, rows=10, variant="minimal")
    return admin


def keeps_updated_at(connection: Connection) -> bool:
    """Whether a change of a row sets its updated_at."""
    connection.execute("update public.user_clusters set updated_at = '2001-01-01'")
    return bool(one(connection, "select bool_and(updated_at > '2021-01-01') from public.user_clusters"))


def verified(connection: Connection) -> dict[str, str]:
    """What verify_clusters.py finds wrong, by check."""
    query = (DB / "verify_user_clusters.sql").read_text()
    row = connection.execute("select public.execute_sql(%s)", [query]).fetchone()
    assert row is not None
    return {check["check"]: check["detail"] for check in row[0] if not check["passed"]}


@pytest.mark.parametrize("with_trigger", [False, True])
def test_a_function_of_the_application(clusters: Connection, with_trigger: bool) -> None:
    """It is neither replaced nor closed, and its trigger is carried over; ours have another name."""
    clusters.execute(OWN_FUNCTION + ("; " + OWN_TRIGGER if with_trigger else ""))
    before = one(clusters, FUNCTION)
    run_file(clusters, MIGRATION)
    assert one(clusters, FUNCTION) == before
    ours = "set_user_clusters_updated_at_2 set_user_clusters_updated_at_2"
    theirs = ["set_user_clusters_updated_at set_user_clusters_updated_at"] if with_trigger else []
    assert one(clusters, TRIGGERS) == [*theirs, ours]
    assert keeps_updated_at(clusters)
    assert verified(clusters) == {}
    run_file(clusters, ROLLBACK)
    assert one(clusters, FUNCTION) == before


def test_our_function_is_used_again(clusters: Connection) -> None:
    """It stays behind a rollback, and the next migration has no need of another."""
    for _ in range(2):
        run_file(clusters, MIGRATION)
        assert one(clusters, TRIGGERS) == ["set_user_clusters_updated_at set_user_clusters_updated_at"]
        assert keeps_updated_at(clusters)
        run_file(clusters, ROLLBACK)


def test_a_prompt_refinements_of_the_application(clusters: Connection, database: Database) -> None:
    """Rows, columns, rights and policies stay; verify says how it differs."""
    clusters.execute(
        "create table public.prompt_refinements (id uuid primary key default gen_random_uuid(), user_id uuid, prompt text); "
        "insert into public.prompt_refinements (prompt) values ('mine'); "
        "grant insert, select on public.prompt_refinements to anon; alter table public.prompt_refinements enable row level security; "
        'create policy "Users can view their own prompt refinements" on public.prompt_refinements using (prompt is not null)'
    )
    before = table_as_it_is(database, "public.prompt_refinements")
    run_file(clusters, MIGRATION)
    assert table_as_it_is(database, "public.prompt_refinements") == before
    found = verified(clusters)
    assert "session_id is missing" in found["prompt_refinements: columns"]
    assert "user_id allows NULL" in found["prompt_refinements: columns"]
    assert "there is none on session_id" in found["prompt_refinements: indexes"]
    assert "anon may insert" in found["prompt_refinements: grants"]
    assert not [check for check in found if check.startswith("user_clusters")]


def test_the_name_of_the_primary_key(clusters: Connection) -> None:
    """The file's name holds, which the output says; "on conflict on constraint" with the old one fails, with ours it works."""
    clusters.execute("alter table public.user_clusters rename constraint user_clusters_pkey to uc_pk")
    run_file(clusters, MIGRATION)
    told = one(clusters, "select result ->> 'message' from rpc_migrations.journal where step ~ '^carry over'")
    assert told == "primary key uc_pk is now user_clusters_pkey"
    insert = (
        "insert into public.user_clusters select * from public.user_clusters on conflict on constraint {} do nothing"
    )
    clusters.execute(insert.format("user_clusters_pkey"))
    with pytest.raises(psycopg.errors.UndefinedObject):
        clusters.execute(insert.format("uc_pk"))
    run_file(clusters, ROLLBACK)
    clusters.execute(insert.format("uc_pk"))


# A table, what else its schema has, and what is made of the table, where names of the one would be names of the other.
_LONG = "y" * 62
MEETING = {
    "table of the array type's name": ("x", "create table public.x (id integer primary key); create table public._x (id integer primary key)"),
    "table of the array type's name before it": ("x", "create table public._x (id integer primary key); create table public.x (id integer primary key)"),
    "table whose array type has two": ("_x", "create table public.x (id integer primary key); create table public._x (id integer primary key)"),
    "type of the array type's name": ("x", "create type public._x as (a integer); create table public.x (id serial primary key, other public._x)"),
    "domain of the array type's name": ("x", "create domain public._x as integer; create table public.x (id integer primary key, other public._x)"),
    "array of the table": ("x", "create table public.x (id integer primary key); create function public.f(public.x[]) returns integer return 1; "
        "create domain public._x as integer; create domain public.__x as integer"),
    "names that differ in the 63rd byte": (f"{_LONG}b", f"create table public.{_LONG}a (id integer primary key); create table public.{_LONG}b (id integer primary key)"),
    "primary key of the backup's": ("x", "create table public.x (id integer constraint x_backup_pkey primary key, a text); create index x_pkey on public.x (a)"),
    "index of the backup's": ("x", "create table public.x (id integer primary key, a text); create index x_backup_pkey on public.x (a)"),
    "constraint of the backup's": ("x", "create table public.x (id integer primary key, z text constraint x_z_key unique); "
        "alter table public.x add constraint x_backup_z_key unique (z)"),
    "check of the backup's": ("x", "create table public.x (id integer primary key, constraint x_backup_pkey check (id > 0))"),
    "foreign key of the backup's": ("x", "create table public.w (id integer primary key); "
        "create table public.x (id integer primary key, constraint x_backup_pkey foreign key (id) references public.w)"),
    "sequence of the backup's": ("x", "create table public.x (id integer generated always as identity primary key); "
        "create index x_backup_id_seq on public.x (id)"),
    "statistics of the backup's": ("x", "create table public.x (id integer primary key, a integer); create statistics public.x_s on id, a from public.x; "
        "create statistics public.x_backup_s (ndistinct) on id, a from public.x"),
    "index of the backup's that it is to have": (
        "x", "create table public.x (id integer primary key, a text constraint x_a_key unique)", "add constraint x_backup_a_key unique (id, a)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("table", "made", "more"), [(*case, "")[:3] for case in MEETING.values()], ids=MEETING)
def test_names_that_meet(
    admin: Connection, database: Database, cluster: Cluster, tmp_path: Path, table: str, made: str, more: str
) -> None:
    """The table is rebuilt as psql would have altered it, and comes back as it was: all under the old names."""
    deploy(admin)
    admin.execute(made.encode())
    change = f"alter table public.{table} add column n integer{', ' * bool(more)}{more}"
    before = dump_schema(database)
    other = cluster.create_database()
    with other.connect() as connection:
        connection.execute(f"{made}; {change}".encode())
        expected = dump_schema(other)
    other.drop()
    backup = " backup old" if len(table) == 63 else ""
    run(admin, short_way(tmp_path / "rebuild.sql", f"public.{table}{backup}", f"{change};"))
    assert dump_schema(database) == expected
    run(admin, read(ROLLBACK))
    assert dump_schema(database) == before


def test_the_array_types_name_the_long_way(admin: Connection, database: Database) -> None:
    """As in one line: with a new table that the step file makes, and one that was rebuilt already."""
    deploy(admin)
    admin.execute("create table public.x (id integer primary key); create domain public._x as integer")
    before = dump_schema(database)
    for migration in ("first", "second"):
        run(admin, rebuild_file("x", "id integer not null").replace("x_backup", f"x_{migration}"), migration)
        assert dump_schema(database) == before
    for migration in ("second", "first"):
        run(admin, read(ROLLBACK), migration)
        assert dump_schema(database) == before


@pytest.mark.parametrize(
    "what",
    ["type {} as (a integer)", "type {} as enum ('a')", "domain {} as integer", "type {} as range (subtype = integer)"],
)
def test_a_type_of_the_backups_name(admin: Connection, database: Database, tmp_path: Path, what: str) -> None:
    """Refused before anything changes; another name for the backup is the way out, which the refusal tells."""
    deploy(admin)
    admin.execute("create table public.bk (id integer primary key)")
    admin.execute(f"create {what.format('public.bk_backup')}".encode())
    before = dump_schema(database)
    with pytest.raises(psycopg.Error, match=r"^type public\.bk_backup is already there") as refused:
        run(admin, short_way(tmp_path / "rebuild.sql", "public.bk", "alter table public.bk add column n integer;"))
    assert refused.value.sqlstate == "RM001"
    assert "`-- rebuild: public.bk backup NAME`" in (refused.value.diag.message_hint or "")
    assert dump_schema(database) == before
    run(
        admin,
        short_way(tmp_path / "rebuild.sql", "public.bk backup bk_2", "alter table public.bk add column n integer;"),
    )
    run(admin, read(ROLLBACK))
    assert dump_schema(database) == before


def test_an_array_type_of_the_backups_name(admin: Connection, database: Database, tmp_path: Path) -> None:
    """It gives way, as PostgreSQL has it give way to any type, and is no obstacle."""
    deploy(admin)
    admin.execute("create table public._a (id integer primary key); create table public.a (id integer primary key)")
    assert one(admin, "select '{}'::public.__a = array[]::public._a[]")
    before = dump_schema(database)
    run(admin, short_way(tmp_path / "rebuild.sql", "public.a backup __a", "alter table public.a add column n integer;"))
    run(admin, read(ROLLBACK))
    assert dump_schema(database) == before
