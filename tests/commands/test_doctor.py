"""doctor.py: what it finds, what it says to do, and that it changes nothing."""

from __future__ import annotations

import json
import re
from typing import Any

import psycopg
import pytest
from checkout import Checkout, said
from conftest import Scripts
from faults.proxy import Exchange, FaultProxy
from local_supabase import Cluster, Database, LocalSupabase, create_old_table
from projects import deploy, project, table_as_it_is
from step_runner import rebuild_file, run


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
    assert "exec_sql(text)" in checks["no other function open to everyone"]["detail"]
    assert {name for name, check in checks.items() if not check["passed"]} == {
        "can be rebuilt",
        "no other function open to everyone",
        "only for the service",
    }
    rights = checks["only for the service"]["detail"]
    assert "anon has rights on table rpc_migrations.runs" in rights
    assert "dashboard_user may execute execute_sql" in rights


def test_a_backup_that_was_opened_again_is_named(
    scripts: Scripts, supabase: LocalSupabase, admin: psycopg.Connection[Any]
) -> None:
    """Of any rebuild, with the statement that closes it."""
    create_old_table(admin, rows=5)
    deploy(admin)
    admin.execute("create table public.orders (id integer primary key)")
    run(admin, rebuild_file("orders", "id bigint primary key"))
    admin.execute("grant all on all tables in schema public to anon")
    code, checks = examine(scripts, supabase)
    assert (code, {name for name, check in checks.items() if not check["passed"]}) == (1, {"only for the service"})
    closing = "revoke all on table public.orders_backup from anon cascade"
    assert f"anon has rights on table public.orders_backup: {closing}" in checks["only for the service"]["detail"]
    admin.execute(closing)
    assert examine(scripts, supabase)[0] == 0


def test_a_transaction_that_was_prepared_and_forgotten(scripts: Scripts) -> None:
    """Nothing was in the way, and then the swap waited for it in vain."""
    with Cluster(max_prepared_transactions="2") as cluster, project(cluster) as running:
        with running.database.connect() as admin:
            admin.execute("begin; select from public.user_clusters; prepare transaction 'forgotten'")
            code, checks = examine(scripts, running)
            admin.execute("rollback prepared 'forgotten'")
        assert (code, checks["nobody keeps it locked"]["passed"]) == (1, False)
        assert "prepared transaction 'forgotten'" in checks["nobody keeps it locked"]["detail"]


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


def _unknown_to_12(exchange: Exchange) -> None:
    """What PostgREST 12 answers where there is no such table."""
    exchange.json(404, {"code": "42P01", "message": 'relation "public.user_clusters" does not exist'})


def test_before_the_deployment_it_reads_through_the_rest_layer(scripts: Scripts, cluster: Cluster) -> None:
    with project(cluster, deployed=False, rows=20) as supabase:
        code, checks = examine(scripts, supabase)
        assert (code, list(checks)) == (
            0,
            ["settings", "migration file", "network and REST layer", "execute_sql", "public.user_clusters"],
        )
        assert "not yet" in checks["execute_sql"]["detail"]
        assert "python scripts/deploy_sql_function.py" in checks["execute_sql"]["detail"]
        table = checks["public.user_clusters"]["detail"]
        assert table.startswith("answers, about 20 rows that this key may read; id, user_id, "), table
        with supabase.database.connect() as connection:
            connection.execute("drop table public.user_clusters")
        code, checks = examine(scripts, supabase)
        assert "Is this the right project?" in checks["public.user_clusters"]["detail"]
        with FaultProxy(
            supabase.url, lambda request: _unknown_to_12 if "/user_clusters" in request.path else None
        ) as old:
            code, checks = examine(scripts, supabase, SUPABASE_URL=old.url)
        assert (code, "Is this the right project?" in checks["public.user_clusters"]["detail"]) == (0, True)
        with supabase.database.connect() as connection:  # somebody else's
            connection.execute("create function public.execute_sql(query text) returns int language sql as 'select 1'")
        code, checks = examine(scripts, supabase)
        assert (code, checks["execute_sql"]["passed"]) == (1, False)
    code, checks = examine(scripts, supabase)  # nobody listens any more
    assert code == 1
    assert "not reachable" in checks["network and REST layer"]["detail"]


@pytest.mark.parametrize("fault", [Exchange.reset, Exchange.close])
def test_one_broken_connection_is_no_finding(checkout: Checkout, supabase: LocalSupabase, fault: Any) -> None:
    with FaultProxy(supabase.url, lambda request: fault if request.number == 1 else None) as proxy:
        said(checkout.run("doctor.py", env=supabase.environment() | {"SUPABASE_URL": proxy.url}), "not yet: ")


def test_a_file_of_ones_own(checkout: Checkout, supabase: LocalSupabase, admin: psycopg.Connection[Any]) -> None:
    admin.execute('create table public."Orders" (id int primary key); insert into public."Orders" values (1)')
    rebuild = checkout.step_file(
        "orders.sql", "select * from rpc_migrations.begin_copy('public.\"Orders\"', 'public.b');"
    )
    said(
        checkout.run("doctor.py", rebuild, env=supabase.environment()),
        "answers, about 1 row that",
        "orders.sql, 1 step",
    )
    deploy(admin)
    said(checkout.run("doctor.py", rebuild, env=supabase.environment()), "1 row, ", "orders has not begun")
    wrong = checkout.step_file("wrong.sql", "select 1;\nvacuum;\n")
    done = checkout.run("doctor.py", wrong, env=supabase.environment())
    said(done, "FAILED  migration file", "wrong.sql:2: ", code=1)
    said(checkout.run("doctor.py", "db/none.sql", env=supabase.environment()), "none.sql", code=2)


def test_only_the_steps_of_the_file_are_counted(
    scripts: Scripts, supabase: LocalSupabase, admin: psycopg.Connection[Any]
) -> None:
    create_old_table(admin, rows=5)
    deploy(admin)
    assert scripts("migrate_clusters.py", env=supabase.environment()).returncode == 0
    admin.execute(
        "insert into rpc_migrations.journal (migration, step, checksum, calls, finished_at) "
        "values ('migrate_user_clusters', 'a step of an earlier file', 'x', 1, now())"
    )
    _, checks = examine(scripts, supabase)
    done, steps = re.findall(r"\d+", checks["journal"]["detail"])
    assert done == steps


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
    expected = (
        ("backup", "is there: the original table, kept for a rollback")
        if table
        else ("public.user_clusters", "will create it")
    )
    assert expected[1] in checks[expected[0]]["detail"]
    if not table:
        assert scripts("migrate_clusters.py", env=supabase.environment()).returncode == 0
        code, checks = examine(scripts, supabase)
        assert (code, checks.keys() & {"can be rebuilt", "room on disk"}) == (0, set()), (
            "it is applied, without a backup"
        )


def test_room_on_disk(checkout: Checkout, supabase: LocalSupabase, admin: psycopg.Connection[Any]) -> None:
    """What a rebuild takes; what is free only where an access token can ask for it."""
    deploy(admin)
    create_old_table(admin, rows=5)
    without = checkout.run("doctor.py", env=supabase.environment())
    said(without, "room on disk", "about 1 MB: the new table with its indexes", "cannot be seen from here", "500 MB")
    token = {"SUPABASE_ACCESS_TOKEN": supabase.access_token, "MIGRATION_MANAGEMENT_URL": supabase.url}
    said(checkout.run("doctor.py", env=supabase.environment() | token), "Free: ")
    wrong = checkout.run("doctor.py", env=supabase.environment() | token | {"SUPABASE_ACCESS_TOKEN": "sbp_wrong"})
    said(wrong, "cannot be seen from here")


def test_a_backup_that_keeps_the_migration_from_beginning_is_in_the_way(
    scripts: Scripts, supabase: LocalSupabase, admin: psycopg.Connection[Any]
) -> None:
    """As the migration itself says it; once that is done, a backup of that name is none of its business."""
    create_old_table(admin, rows=5)
    deploy(admin)
    admin.execute("create table public.user_clusters_backup as select * from public.user_clusters")
    code, checks = examine(scripts, supabase)
    assert (code, checks["backup"]["passed"]) == (1, False)
    assert "rename or drop" in checks["backup"]["detail"]
    refused = scripts("migrate_clusters.py", env=supabase.environment())
    assert "public.user_clusters_backup is already there" in refused.stderr
    admin.execute("drop table public.user_clusters_backup")
    assert scripts("migrate_clusters.py", env=supabase.environment()).returncode == 0
    code, checks = examine(scripts, supabase)
    assert (code, "kept for a rollback" in checks["backup"]["detail"]) == (0, True)
    assert scripts("finish_clusters.py", "--yes", env=supabase.environment()).returncode == 0
    admin.execute("create table public.user_clusters_backup as select * from public.user_clusters")
    code, checks = examine(scripts, supabase)
    assert (code, checks["backup"]["passed"]) == (0, True)
