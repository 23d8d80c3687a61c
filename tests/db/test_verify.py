"""The checks of db/verify_user_clusters.sql: all passed after a migration, and each of them can fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pglast
import psycopg
import pytest
from local_supabase import Cluster, Database, LocalSupabase, create_old_table
from step_runner import DB, MIGRATION, ROLLBACK, deploy, run_file
from supabase import create_client

QUERY = (DB / "verify_user_clusters.sql").read_text()
EXECUTE_SQL = "public.execute_sql(text, text, text, text, boolean, uuid, integer, jsonb, text, jsonb)"
INVALID = "reset role; update pg_index set indisvalid = false where indexrelid = 'public.{}'::regclass"

Row = dict[str, Any]


def verify(connection: psycopg.Connection[Any]) -> dict[str, Row]:
    """The checks by name, as execute_sql answers them."""
    row = connection.execute("select public.execute_sql(%s)", [QUERY]).fetchone()
    assert row is not None
    return {check["check"]: check for check in row[0]}


def failed(checks: dict[str, Row]) -> list[str]:
    """The names of the checks that failed; each of them says what to do, and every check says something."""
    assert all(check["detail"] for check in checks.values())
    names = [name for name, check in checks.items() if not check["passed"]]
    assert all("make " in checks[name]["detail"] or "Run the statement" in checks[name]["detail"] for name in names)
    return names


@pytest.fixture(scope="module")
def migrated(cluster: Cluster) -> Iterator[psycopg.Connection[Any]]:
    """The superuser's connection to a database with a migrated table of 50 rows and a kept one of a rollback."""
    database = cluster.create_database(default_grants="all")
    with database.connect() as admin:
        deploy(admin)
        create_old_table(admin, rows=50)
        run_file(admin, MIGRATION)
        run_file(admin, ROLLBACK)
        run_file(admin, MIGRATION)
    with database.connect("supabase_admin") as connection:
        yield connection
    database.drop()


# --- after a migration


@pytest.mark.parametrize("default_grants", ["all", "none"])
@pytest.mark.parametrize("old_table", ["none", "empty", "minimal", "full", "extra"])
def test_all_checks_pass_after_a_migration(admin: psycopg.Connection[Any], old_table: str, default_grants: str) -> None:
    deploy(admin)
    rows = 0 if old_table in ("none", "empty") else 200
    if old_table != "none":
        create_old_table(admin, rows=rows, variant=cast(Any, "full" if old_table == "empty" else old_table))
    run_file(admin, MIGRATION)
    checks = verify(admin)
    assert failed(checks) == []
    assert len(checks) == 21
    assert checks["user_clusters: data"]["detail"].startswith(f"{rows} rows; ")


def test_the_checks_pass_over_rest(admin: psycopg.Connection[Any], supabase: LocalSupabase) -> None:
    deploy(admin)
    create_old_table(admin, rows=10)
    run_file(admin, MIGRATION)
    client = create_client(supabase.url, supabase.service_key)
    rows = cast(list[Row], client.rpc("execute_sql", {"query": QUERY}).execute().data)
    assert len(rows) == 21
    assert all(set(row) == {"check", "passed", "detail"} and row["passed"] for row in rows)


def test_one_statement_that_only_reads(migrated: psycopg.Connection[Any]) -> None:
    (statement,) = pglast.parse_sql(QUERY)
    assert isinstance(statement.stmt, pglast.ast.SelectStmt)
    with migrated.transaction(force_rollback=True):
        migrated.execute("set transaction read only")
        assert failed(verify(migrated)) == []


# --- at other times


def test_without_any_table(database: Database, admin: psycopg.Connection[Any]) -> None:
    deploy(admin)
    checks = verify(admin)
    assert len(failed(checks)) == 16
    assert all(checks[name]["detail"].endswith("Run: make migrate-clusters") for name in failed(checks))


def test_before_in_the_middle_and_after_a_rollback(admin: psycopg.Connection[Any]) -> None:
    deploy(admin)
    create_old_table(admin, rows=20)
    unchanged = failed(verify(admin))
    assert {"user_clusters: columns", "user_clusters: trigger", "prompt_refinements: columns"} <= set(unchanged)
    run_file(admin, MIGRATION, until="begin the copy")
    assert failed(verify(admin)) == [*unchanged, "no migration is under way"]
    run_file(admin, ROLLBACK)
    assert failed(verify(admin)) == unchanged
    run_file(admin, MIGRATION)
    run_file(admin, ROLLBACK)
    checks = verify(admin)
    assert failed(checks) == ["user_clusters: columns", "user_clusters: trigger"]
    assert all("It was rolled back at 20" in checks[name]["detail"] for name in failed(checks))


def test_what_the_application_does_is_no_failure(migrated: psycopg.Connection[Any]) -> None:
    with migrated.transaction(force_rollback=True):
        migrated.execute("delete from public.user_clusters where id in (select id from public.user_clusters limit 3)")
        migrated.execute(
            "insert into public.user_clusters (user_id, cluster_type) select user_id, 'new' from public.user_clusters"
        )
        checks = verify(migrated)
        assert failed(checks) == []
        detail = checks["user_clusters: data"]["detail"]
        assert detail.startswith("94 rows; 50 rows in public.user_clusters_backup; 3 of these are not in the table")


def test_a_dropped_backup_is_no_failure(migrated: psycopg.Connection[Any]) -> None:
    with migrated.transaction(force_rollback=True):
        migrated.execute("drop table public.user_clusters_backup")
        checks = verify(migrated)
        assert failed(checks) == []
        assert "there is no public.user_clusters_backup" in checks["user_clusters: data"]["detail"]


# --- broken on purpose


def _on(table: str, *changes: str) -> list[str]:
    return [f"alter table public.{table} {change}" for change in changes]


BROKEN: dict[str, list[str]] = {
    "user_clusters: columns": [
        *_on(
            "user_clusters",
            "drop column learning_style_factor",
            "alter column feedback_pattern_factor drop default, alter column feedback_pattern_factor type text",
            "alter column cluster_type type varchar(80)",
            "alter column cluster_score drop not null",
            "alter column created_at set not null",
            "alter column updated_at drop default",
            "alter column cluster_score set default 1",
        )
    ],
    "user_clusters: data": [
        "delete from public.user_clusters where true",
        "update public.user_clusters set id = gen_random_uuid() where true",
    ],
    "user_clusters: primary key": [
        *_on(
            "user_clusters",
            "drop constraint user_clusters_pkey",
            "drop constraint user_clusters_pkey, add primary key (id, user_id)",
        )
    ],
    "user_clusters: indexes": [
        "drop index public.user_clusters_user_id_idx",
        INVALID.format("user_clusters_user_id_idx"),
        "drop index public.user_clusters_user_id_idx; create index on public.user_clusters (cluster_type, user_id)",
    ],
    "user_clusters: foreign keys": [
        *_on(
            "user_clusters",
            "drop constraint user_clusters_user_id_fkey",
            "drop constraint user_clusters_user_id_fkey, add foreign key (user_id) references auth.users (id)",
            "drop constraint user_clusters_user_id_fkey,"
            " add foreign key (user_id) references auth.users (id) on delete cascade not valid",
        ),
        "create table public.other (cluster uuid);"
        " alter table public.other add foreign key (cluster) references public.user_clusters (id) not valid",
    ],
    "user_clusters: row level security": _on("user_clusters", "disable row level security"),
    "user_clusters: policies": [
        *(
            f'drop policy "Users can {verb} their own clusters" on public.user_clusters'
            for verb in ("view", "insert", "update")
        ),
        'alter policy "Users can view their own clusters" on public.user_clusters to service_role',
        'alter policy "Users can view their own clusters" on public.user_clusters using (true)',
    ],
    "user_clusters: trigger": [
        "drop trigger set_user_clusters_updated_at on public.user_clusters",
        *_on("user_clusters", "disable trigger set_user_clusters_updated_at"),
    ],
    "user_clusters: grants": [
        *(f"revoke {right} on public.user_clusters from authenticated" for right in ("select", "insert", "update")),
        *(
            f"revoke {right} on public.user_clusters from service_role"
            for right in ("select", "insert", "update", "delete")
        ),
    ],
    "prompt_refinements: columns": [
        *_on(
            "prompt_refinements",
            "drop column original_prompt",
            "alter column refined_prompt drop not null",
            "alter column id drop default",
            "alter column refined_prompt type varchar(20)",
        )
    ],
    "prompt_refinements: primary key": _on("prompt_refinements", "drop constraint prompt_refinements_pkey"),
    "prompt_refinements: indexes": [
        "drop index public.prompt_refinements_user_id_idx",
        "drop index public.prompt_refinements_session_id_idx",
        INVALID.format("prompt_refinements_session_id_idx"),
    ],
    "prompt_refinements: foreign keys": _on("prompt_refinements", "drop constraint prompt_refinements_user_id_fkey"),
    "prompt_refinements: row level security": _on("prompt_refinements", "disable row level security"),
    "prompt_refinements: policies": [
        'drop policy "Users can view their own prompt refinements" on public.prompt_refinements'
    ],
    "prompt_refinements: grants": [
        "revoke select on public.prompt_refinements from authenticated",
        "revoke insert on public.prompt_refinements from service_role",
        "grant insert on public.prompt_refinements to authenticated",
        "grant truncate on public.prompt_refinements to anon",
        "grant delete on public.prompt_refinements to public",
    ],
    "backup: closed to the API": [
        "grant select on public.user_clusters_backup to anon",
        "grant select (id) on public.user_clusters_backup to authenticated",
        "grant delete on public.user_clusters_backup to public",
        "grant select on public.user_clusters_backup to service_role",
        "grant select on public.user_clusters_backup to dashboard_user",
        *_on("user_clusters_backup", "disable row level security"),
        "do $$ begin execute (select format('grant select on %s to anon', oid::regclass)"
        " from pg_class where relname ~ '^user_clusters_rolled_back_[0-9]+$'); end $$",
    ],
    "execute_sql: only for the service": [
        *(
            f"grant execute on function {EXECUTE_SQL} to {role}"
            for role in ("anon", "authenticated", "public", "dashboard_user")
        ),
        "reset role; grant service_role to dashboard_user",
        f"revoke execute on function {EXECUTE_SQL} from service_role",
    ],
    "no other function runs SQL for users": [
        f"create function public.{name}(query text) returns void language plpgsql security definer"
        " as 'begin execute query; end';"
        f" grant execute on function public.{name} to {role}"
        for name, role in [
            ("exec_sql", "anon"),
            ("run_sql", "authenticated"),
            ("execute_query", "public"),
            ("exec_raw_sql", "anon"),
        ]
    ],
    "rpc_migrations: closed to the API": [
        *(
            f"grant usage on schema rpc_migrations to {role}"
            for role in ("anon", "authenticated", "service_role", "public")
        ),
        "grant usage on schema rpc_migrations to dashboard_user",
        "grant select on rpc_migrations.journal to anon",
        "grant insert (id) on rpc_migrations.journal to dashboard_user",
        "grant execute on function rpc_migrations.run_sql to service_role",
        "grant usage on sequence rpc_migrations.journal_id_seq to authenticated",
        "reset role; alter role authenticator set pgrst.db_schemas = 'public, rpc_migrations'",
    ],
    "no migration is under way": [
        "create table rpc_migrations.log_99 (id uuid)",
        "create table rpc_migrations.user_clusters (id uuid)",
        "create function rpc_migrations.capture_99() returns trigger language plpgsql as 'begin return null; end';"
        " revoke all on function rpc_migrations.capture_99 from public",
        "create trigger rpc_migrations_capture after insert on public.user_clusters"
        " for each row execute function public.set_user_clusters_updated_at()",
    ],
}
CASES = [(check, statement) for check, statements in BROKEN.items() for statement in statements]


@pytest.mark.parametrize(("check", "statement"), CASES, ids=[f"{check}-{statement[:60]}" for check, statement in CASES])
def test_each_check_can_fail(migrated: psycopg.Connection[Any], check: str, statement: str) -> None:
    with migrated.transaction(force_rollback=True):
        migrated.execute("set role postgres")
        migrated.execute(statement.encode())
        assert failed(verify(migrated)) == [check]


def test_no_check_was_forgotten(migrated: psycopg.Connection[Any]) -> None:
    assert set(verify(migrated)) == set(BROKEN)


@pytest.mark.parametrize("table", ["user_clusters", "prompt_refinements"])
def test_a_missing_table_fails_all_that_is_about_it(migrated: psycopg.Connection[Any], table: str) -> None:
    with migrated.transaction(force_rollback=True):
        migrated.execute(f"drop table public.{table} cascade".encode())
        checks = verify(migrated)
        assert failed(checks) == [name for name in checks if name.startswith(f"{table}:")]


def test_a_function_that_users_may_not_execute_is_no_failure(migrated: psycopg.Connection[Any]) -> None:
    with migrated.transaction(force_rollback=True):
        migrated.execute("create function public.exec_sql(query text) returns void language sql as ''")
        migrated.execute("revoke all on function public.exec_sql from public, anon, authenticated")
        assert failed(verify(migrated)) == []


def test_another_execute_sql_does_not_become_ours_by_its_comment(migrated: psycopg.Connection[Any]) -> None:
    """Whoever may make functions in public may comment them as we do."""
    with migrated.transaction(force_rollback=True):
        migrated.execute("set role postgres")
        migrated.execute("create function public.execute_sql(query text, n integer) returns void language sql as ''")
        migrated.execute("comment on function public.execute_sql(text, integer) is 'rpc_migrations 2 x'")
        assert "no other function runs SQL for users" in failed(verify(migrated))
