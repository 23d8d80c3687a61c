"""doctor.py: what it finds, what it says to do, and that it changes nothing."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from conftest import Scripts
from local_supabase import Cluster, Database, LocalSupabase, create_old_table
from projects import deploy, project, table_as_it_is


def examine(scripts: Scripts, supabase: LocalSupabase, **env: str | None) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code and the checks by name."""
    done = scripts("doctor.py", "--json", env={**supabase.environment(), **env})
    return done.returncode, {check["check"]: check for check in json.loads(done.stdout)["checks"]}


def test_all_is_well_and_nothing_is_changed(
    scripts: Scripts, supabase: LocalSupabase, admin: psycopg.Connection[Any], database: Database
) -> None:
    create_old_table(admin, rows=50, variant="extra")
    deploy(admin)
    before = table_as_it_is(database)
    code, checks = examine(scripts, supabase)
    assert code == 0
    assert all(check["passed"] for check in checks.values())
    assert checks["network and REST layer"]["detail"] == "PostgREST 16.2"
    assert "50s" in checks["database"]["detail"]
    assert "weight" in checks["public.user_clusters"]["detail"]
    assert "policy" in checks["carried over"]["detail"]
    assert table_as_it_is(database) == before
    assert admin.execute("select count(*) from rpc_migrations.runs").fetchone() == (0,)


def test_what_is_in_the_way_is_named(scripts: Scripts, supabase: LocalSupabase, admin: psycopg.Connection[Any]) -> None:
    create_old_table(admin, rows=5)
    deploy(admin)
    admin.execute("create materialized view public.scores as select cluster_score from public.user_clusters")
    admin.execute("create function public.exec_sql(query text) returns void language sql as $$ select 1 $$")
    admin.execute(
        "grant execute on function public.execute_sql to dashboard_user; grant select on rpc_migrations.runs to anon"
    )
    code, checks = examine(scripts, supabase)
    assert code == 1
    assert "scores" in checks["can be rebuilt"]["detail"]
    assert "exec_sql(text)" in checks["no open door beside it"]["detail"]
    assert {name for name, check in checks.items() if not check["passed"]} == {
        "can be rebuilt",
        "no open door beside it",
        "only for the service",
    }
    rights = checks["only for the service"]["detail"]
    assert "anon has rights on table rpc_migrations.runs" in rights
    assert "dashboard_user may execute execute_sql" in rights


def test_a_very_large_table_is_pointed_to_psql(
    scripts: Scripts, supabase: LocalSupabase, admin: psycopg.Connection[Any], database: Database
) -> None:
    create_old_table(admin, rows=5)
    deploy(admin)
    with database.connect("supabase_admin") as superuser:
        superuser.execute("update pg_catalog.pg_class set reltuples = 5e7 where oid = 'public.user_clusters'::regclass")
    code, checks = examine(scripts, supabase)
    assert code == 1
    assert "--write-sql --online" in checks["fits into requests"]["detail"]
    plan = scripts("migrate_clusters.py", "--dry-run", env=supabase.environment())
    assert plan.returncode == 0
    assert "50,000,000 rows" in plan.stderr


def test_it_stops_at_the_first_thing_without_which_no_more_is_seen(scripts: Scripts, cluster: Cluster) -> None:
    with project(cluster, deployed=False) as supabase:
        code, checks = examine(scripts, supabase)
        assert code == 1
        assert list(checks) == ["settings", "network and REST layer", "execute_sql"]
        assert "python scripts/deploy_sql_function.py" in checks["execute_sql"]["detail"]
    code, checks = examine(scripts, supabase)  # nobody listens any more
    assert code == 1
    assert "not reachable" in checks["network and REST layer"]["detail"]


@pytest.mark.parametrize("table", [False, True])
def test_without_an_old_table_and_after_the_migration(
    scripts: Scripts, supabase: LocalSupabase, admin: psycopg.Connection[Any], table: bool
) -> None:
    deploy(admin)
    if table:
        create_old_table(admin, rows=5)
        assert scripts("migrate_clusters.py", env=supabase.environment()).returncode == 0
    code, checks = examine(scripts, supabase)
    assert code == 0
    expected = ("backup", "is there") if table else ("public.user_clusters", "will create it")
    assert expected[1] in checks[expected[0]]["detail"]
