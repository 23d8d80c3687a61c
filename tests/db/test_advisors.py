"""Supabase's database advisors find nothing that comes from this project, at any moment of a migration."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import advisors
import psycopg
import pytest
from advisors import Finding
from local_supabase import Database, create_old_table
from step_runner import MIGRATION, ROLLBACK, deploy, run_file, run_steps

Advise = Callable[[psycopg.Connection[Any]], set[Finding]]

# Something for each of the checks to find.
BAD = """
create table public.open (id int primary key, other int);
create index open_one on public.open (other);
create index open_two on public.open (other);
create table public.forgotten (id int primary key, user_id uuid);
create policy own on public.forgotten for select using (auth.uid() = user_id);
create table public.doubled (id int primary key, user_id uuid);
alter table public.doubled enable row level security;
create policy own on public.doubled for select using (auth.uid() = user_id);
create policy own_too on public.doubled using ((select auth.uid()) = user_id);
create policy anyone on public.doubled for insert with check (true);
create view public.seen as select * from public.doubled;
create function public.loose() returns int language sql security definer as 'select 1';
grant all on all tables in schema public to anon, authenticated;
"""

# Of the old table, in the place of those of the sample: the same rules under other names and in other words.
OLD_POLICIES = {
    "as they are": "",
    "in other words": """
        create policy "see own" on public.user_clusters for select using (user_id = auth.uid());
        create policy "add own" on public.user_clusters for insert to authenticated
            with check ((select auth.uid()) = user_id);
        create policy "change own" on public.user_clusters for update to anon, authenticated
            using (auth.uid()::text = user_id::text);
    """,
    "one for all": """
        create policy "own rows" on public.user_clusters using ((auth.uid()) = user_id) with check (user_id = auth.uid());
    """,
    "none": "",
    "none, and row level security off": "alter table public.user_clusters disable row level security",
    "another index": """
        drop index public.user_clusters_user_id_idx;
        create index idx_clusters_user on public.user_clusters (user_id);
    """,
}
KEEPS_POLICIES = ("as they are", "another index")


def adapt_old_table(connection: psycopg.Connection[Any], kind: str) -> None:
    """Change the sample table's policies or indexes."""
    if kind not in KEEPS_POLICIES:
        for verb in ("view", "insert", "update"):
            connection.execute(f'drop policy "Users can {verb} their own clusters" on public.user_clusters'.encode())
    if OLD_POLICIES[kind]:
        connection.execute(OLD_POLICIES[kind].encode())


@pytest.fixture(scope="module")
def cli_statement() -> Iterator[str | None]:
    """What the Supabase CLI sends, or None where it is not installed."""
    program = advisors.find_cli()
    if program is None:
        yield None
        return
    with advisors.cluster_for_the_cli() as cluster:
        database = cluster.create_database()
        with database.connect() as connection:
            connection.execute(BAD.encode())
            statement = advisors.capture_statement(program, database)
            # The statement finds what the CLI says, so it may stand for it.
            assert advisors.run_statement(connection, statement) == advisors.run_cli(program, database) != set()
        yield statement


@pytest.fixture
def advise(cli_statement: str | None) -> Advise:
    """What the advisors find: our own few checks, and all of Supabase's where its CLI is there."""

    def run(connection: psycopg.Connection[Any]) -> set[Finding]:
        found = advisors.run_own_checks(connection)
        return found | (advisors.run_statement(connection, cli_statement) if cli_statement else set())

    return run


def in_the_old_names(findings: set[Finding]) -> set[Finding]:
    """Findings about the original table under its later names are those that it had before, and so are its rights; so are
    those about its policies on the new table, which has them before it has its name.
    """
    renamed = re.compile(r"^user_clusters_(backup|rolled_back_[0-9]+)\b")
    return {
        finding._replace(
            object=renamed.sub("user_clusters", finding.object),
            schema=finding.schema.replace("rpc_migrations", "public"),
        )
        for finding in findings
    }


# Meant to be: signed-in users may read both tables, so both can be seen through GraphQL, if it is installed.
MEANT = {
    Finding("pg_graphql_table_exposed", "public", f"{table} to authenticated")
    for table in ("user_clusters", "prompt_refinements")
}


def test_our_checks_find_what_supabase_finds(database: Database, cli_statement: str | None) -> None:
    with database.connect() as connection:
        connection.execute(BAD.encode())
        own = advisors.run_own_checks(connection)
        assert {finding.name for finding in own} == set(advisors.CHECKS)
        if cli_statement is None:
            pytest.skip("no Supabase CLI here (npm install supabase; SUPABASE_CLI names it)")
        theirs = advisors.run_statement(connection, cli_statement)
    shared = set(advisors.CHECKS) - advisors.LATER_THAN_THE_CLI
    assert {finding for finding in own if finding.name in shared} == {
        finding for finding in theirs if finding.name in shared
    }


@pytest.mark.parametrize("default_grants", ["all", "none"])
@pytest.mark.parametrize("policies", ["as they are", "in other words", "one for all"])
def test_nothing_is_found_at_any_moment(
    admin: psycopg.Connection[Any], advise: Advise, policies: str, default_grants: str
) -> None:
    create_old_table(admin, rows=20, variant="extra")
    adapt_old_table(admin, policies)
    before = advise(admin) | MEANT
    deploy(admin)
    assert in_the_old_names(advise(admin)) <= before
    for file in (MIGRATION, ROLLBACK):
        for step in run_steps(admin, file):
            assert in_the_old_names(advise(admin)) - before == set(), f"after {step}"


@pytest.mark.parametrize("default_grants", ["all", "none"])
@pytest.mark.parametrize("policies", ["none", "none, and row level security off", "another index"])
def test_nothing_is_found_afterwards(
    admin: psycopg.Connection[Any], advise: Advise, policies: str, default_grants: str
) -> None:
    create_old_table(admin, rows=20, variant="minimal")
    adapt_old_table(admin, policies)
    before = advise(admin) | MEANT
    deploy(admin)
    for file in (MIGRATION, ROLLBACK):
        run_file(admin, file)
        assert in_the_old_names(advise(admin)) - before == set(), file


@pytest.mark.parametrize("default_grants", ["all", "none"])
def test_nothing_is_found_without_an_old_table(
    admin: psycopg.Connection[Any], advise: Advise, default_grants: str
) -> None:
    deploy(admin)
    assert advise(admin) == set()
    for file in (MIGRATION, ROLLBACK):
        for step in run_steps(admin, file):
            assert advise(admin) - MEANT == set(), f"after {step}"


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        (
            "as they are",
            {
                "Users can view their own clusters": "r",
                "Users can insert their own clusters": "a",
                "Users can update their own clusters": "w",
            },
        ),
        (
            "none",
            {
                "Users can view their own clusters": "r",
                "Users can insert their own clusters": "a",
                "Users can update their own clusters": "w",
            },
        ),
        ("in other words", {"see own": "r", "add own": "a", "change own": "w"}),
        ("one for all", {"own rows": "*"}),
    ],
)
def test_policies_of_the_old_table_are_kept_and_not_doubled(
    admin: psycopg.Connection[Any], policies: str, expected: dict[str, str]
) -> None:
    deploy(admin)
    create_old_table(admin)
    adapt_old_table(admin, policies)
    run_file(admin, MIGRATION)
    query = "select polname::text, polcmd::text from pg_policy where polrelid = 'public.user_clusters'::regclass"
    assert dict(admin.execute(query.encode()).fetchall()) == expected


@pytest.mark.parametrize(
    "other",
    [
        "for select using (true)",
        "for select to service_role using (auth.uid() = user_id)",
        "for select to authenticated, postgres using (auth.uid() = user_id)",
        "as restrictive for select using (auth.uid() = user_id)",
        "for delete using (auth.uid() = user_id)",
        "for select using (auth.uid() = user_id and cluster_type <> 'hidden')",
        "for update using (auth.uid() = user_id) with check (true)",
    ],
)
def test_policies_that_say_something_else_are_carried_over(admin: psycopg.Connection[Any], other: str) -> None:
    deploy(admin)
    create_old_table(admin)
    admin.execute(f"create policy other on public.user_clusters {other}".encode())
    text = (
        "select statement from rpc_migrations.describe_table('public.user_clusters'::regclass, 'x')"
        " where kind = 'policy' and name = 'other'"
    )
    before = admin.execute(text).fetchall()
    run_file(admin, MIGRATION)
    assert admin.execute(text).fetchall() == before != []
