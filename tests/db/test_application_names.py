"""What the application has under a name that the migration of user_clusters would use stays as it is."""

from __future__ import annotations

import psycopg
import pytest
from local_supabase import Database, create_old_table
from projects import one, table_as_it_is
from step_runner import DB, MIGRATION, ROLLBACK, Connection, deploy, run_file

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
