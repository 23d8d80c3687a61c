"""What other tools have applied, by their own tables: it is not run again. Where that cannot be told, nothing is run.

The tables are as the tools make them, by their documentation and code.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from faults.harness import Outcome
from migration_folder import Project, failure

APPLIED, TO_DO, NOT_KNOWN = "applied by", "to do", "not known:"
CRLF = "\r\n"


def text(place: int, tool: str = "") -> str:
    """The text of a case's file, by its place among them, as it has to be written for the tool."""
    mark = {"dbmate": "-- migrate:up\n", "goose": "-- +goose Up\n", "graphile-migrate": f"--! Previous: -\n--! Hash: h{place}\n\n"}.get(tool, "")  # fmt: skip
    return f"{mark}create table public.t{place} (id integer);\n"


def hashed(place: int, line_end: str = "\n") -> str:
    return sha256(text(place).replace("\n", line_end).encode()).hexdigest()


PRISMA = (
    "create table public._prisma_migrations (id varchar(36) primary key, checksum varchar(64) not null, finished_at timestamptz, "
    "migration_name varchar(255) not null, logs text, rolled_back_at timestamptz, started_at timestamptz not null default now(), "
    "applied_steps_count integer not null default 0); "
    "insert into public._prisma_migrations (id, checksum, finished_at, migration_name, rolled_back_at) values "
)
DRIZZLE = (
    "create schema drizzle; create table drizzle.__drizzle_migrations (id serial primary key, hash text not null, created_at bigint); "
    "insert into drizzle.__drizzle_migrations (hash, created_at) values "
)
FLYWAY = (
    "create table public.flyway_schema_history (installed_rank integer primary key, version varchar(50), description varchar(200) not null, "
    "type varchar(20) not null, script varchar(1000) not null, checksum integer, installed_by varchar(100) not null default 'a', "
    "installed_on timestamp not null default now(), execution_time integer not null default 1, success boolean not null); "
    "insert into public.flyway_schema_history (installed_rank, version, description, type, script, success) values "
)
GOOSE = (
    "create table public.goose_db_version (id serial primary key, version_id bigint not null, is_applied boolean not null, tstamp timestamp); "
    "insert into public.goose_db_version (version_id, is_applied) values (0, true), "
)
GOLANG = (
    "create table public.schema_migrations (version bigint not null primary key, dirty boolean not null); "
    "insert into public.schema_migrations values "
)
ATLAS = (
    "create schema atlas_schema_revisions; create table atlas_schema_revisions.atlas_schema_revisions (version varchar primary key, "
    "description varchar not null, type bigint not null default 2, applied bigint not null default 0, total bigint not null default 0, "
    "executed_at timestamptz not null default now(), execution_time bigint not null default 0, error text, error_stmt text, "
    "hash varchar not null default '', partial_hashes jsonb, operator_version varchar not null default ''); "
    "insert into atlas_schema_revisions.atlas_schema_revisions (version, description, type, applied, total) values "
)
SQLX = (
    "create table public._sqlx_migrations (version bigint primary key, description text not null, installed_on timestamptz not null default now(), "
    "success boolean not null, checksum bytea not null, execution_time bigint not null); "
    "insert into public._sqlx_migrations (version, description, success, checksum, execution_time) values "
)

# The tool, the statements that make its table, and where files stand by it.
CASES: dict[str, tuple[str, str, dict[str, str]]] = {
    "Prisma": (
        "Prisma",
        PRISMA + "(1, '', now(), '20260101000000_a', null), (2, '', null, '20260102000000_b', now())",
        {"20260101000000_a/migration.sql": APPLIED, "20260102000000_b/migration.sql": TO_DO},
    ),
    "Prisma, failed": (
        "Prisma",
        PRISMA + "(1, '', now(), '20260101000000_a', null), (2, '', null, '20260102000000_b', null)",
        {"20260101000000_a/migration.sql": APPLIED, "20260102000000_b/migration.sql": NOT_KNOWN},
    ),
    "Prisma, failed, rolled back and applied": (
        "Prisma",
        PRISMA + "(1, '', null, '20260101000000_a', now()), (2, '', now(), '20260101000000_a', null)",
        {"20260101000000_a/migration.sql": APPLIED},
    ),
    "Drizzle": (
        "Drizzle", DRIZZLE + f"('{hashed(0)}', 1000)", {"0000_hulk.sql": APPLIED, "0001_thor.sql": TO_DO},
    ),
    "Drizzle, noted on Windows": (
        "Drizzle", DRIZZLE + f"('{hashed(0, CRLF)}', 1000)", {"0000_hulk.sql": APPLIED},
    ),
    "Drizzle, edited since": (
        "Drizzle",
        DRIZZLE + "('0', 1000), ('1', 2000)",
        {"0000_hulk.sql": APPLIED, "0001_thor.sql": APPLIED, "0002_loki.sql": TO_DO, "meta/_journal.json":
         '{"entries": [{"when": 1000, "tag": "0000_hulk"}, {"when": 2000, "tag": "0001_thor"}, {"when": 3000, "tag": "0002_loki"}]}'},
    ),
    "Drizzle, a file that does again what another did": (
        "Drizzle",
        DRIZZLE + f"('{hashed(1)}', 1000)",
        {"0000_hulk.sql": APPLIED, "0001_thor.sql": TO_DO,
         "meta/_journal.json": '{"entries": [{"when": 1000, "tag": "0000_hulk"}, {"when": 2000, "tag": "0001_thor"}]}'},
    ),
    "Drizzle, skipped": (
        "Drizzle",
        DRIZZLE + "('0', 1000), ('1', 2000)",
        {"0000_hulk.sql": APPLIED, "0001_thor.sql": NOT_KNOWN,
         "meta/_journal.json": '{"entries": [{"when": 1000, "tag": "0000_hulk"}, {"when": 1999, "tag": "0001_thor"}]}'},
    ),
    "Drizzle 1": (
        "Drizzle",
        "create schema drizzle; create table drizzle.__drizzle_migrations (id serial primary key, hash text not null, created_at bigint, "
        "name text, applied_at timestamptz default now(), version integer); "
        f"insert into drizzle.__drizzle_migrations (hash, created_at, name) values ('{hashed(1)}', 1767225600000, '20260101000000_hulk')",
        {"20260101000000_hulk/migration.sql": APPLIED, "20260102000000_thor/migration.sql": TO_DO},
    ),
    "Drizzle 1, of files as they were before": (
        "Drizzle",
        DRIZZLE + "('0', 1767225600123)",
        {"20260101000000_hulk/migration.sql": APPLIED, "20260101000000_hulk/snapshot.json": "{}",
         "20260102000000_thor/migration.sql": TO_DO, "20260102000000_thor/snapshot.json": "{}"},
    ),
    "Flyway": (
        "Flyway",
        FLYWAY + "(0, null, '<< Flyway Schema Creation >>', 'SCHEMA', 'public', true), (1, '1', 'a', 'SQL', 'V1__a.sql', true)",
        {"V1__a.sql": APPLIED, "V2__b.sql": TO_DO},
    ),
    "Flyway, a baseline": (
        "Flyway",
        FLYWAY + "(1, '2', '<< Flyway Baseline >>', 'BASELINE', '<< Flyway Baseline >>', true)",
        {"V1__a.sql": APPLIED, "V2__b.sql": APPLIED, "V2_1__c.sql": TO_DO, "V3__d.sql": TO_DO},
    ),
    "Flyway, undone": (
        "Flyway",
        FLYWAY + "(1, '1', 'a', 'SQL', 'V1__a.sql', true), (2, '2', 'b', 'SQL', 'V2__b.sql', true), (3, '2', 'b', 'UNDO_SQL', 'U2__b.sql', true), "
        "(4, '1', 'a', 'UNDO_SQL', 'U1__a.sql', true), (5, '1', 'a', 'SQL', 'V1__a.sql', true)",
        {"V1__a.sql": APPLIED, "V2__b.sql": TO_DO},
    ),
    "Flyway, failed": (
        "Flyway",
        FLYWAY + "(1, '1', 'a', 'SQL', 'V1__a.sql', true), (2, '2', 'b', 'SQL', 'V2__b.sql', false)",
        {"V1__a.sql": APPLIED, "V2__b.sql": NOT_KNOWN},
    ),
    "Flyway, a way back that failed": (
        "Flyway",
        FLYWAY + "(1, '1', 'a', 'SQL', 'V1__a.sql', true), (2, '1', 'a', 'UNDO_SQL', 'U1__a.sql', false)",
        {"V1__a.sql": NOT_KNOWN},
    ),
    "Flyway, deleted": (
        "Flyway",
        FLYWAY + "(1, '1', 'a', 'SQL', 'V1__a.sql', true), (2, '1', 'a', 'DELETE', 'V1__a.sql', true)",
        {"V1__a.sql": NOT_KNOWN},
    ),
    "Flyway, other ways to write a version": (
        "Flyway",
        FLYWAY + "(1, '1.2', 'a', 'SQL', 'sub/V1_2__a.sql', true), (2, '3', 'b', 'SQL', 'V003__old_name.sql', true)",
        {"V1_2__a.sql": APPLIED, "V1_3__c.sql": TO_DO, "V3_0__b.sql": APPLIED},
    ),
    "Diesel": (
        "Diesel",
        "create table public.__diesel_schema_migrations (version varchar(50) primary key, run_on timestamp default now()); "
        "insert into public.__diesel_schema_migrations values ('20260101000000')",
        {"2026-01-01-000000_a/up.sql": APPLIED, "2026-01-02-000000_b/up.sql": TO_DO},
    ),
    "dbmate": (
        "dbmate",
        "create table public.schema_migrations (version varchar(128) primary key); insert into public.schema_migrations values ('20260101')",
        {"20260101_a.sql": APPLIED, "20260102_b.sql": TO_DO},
    ),
    "goose": ("goose", GOOSE + "(1, true)", {"00001_a.sql": APPLIED, "00002_b.sql": TO_DO}),
    "goose, undone": (
        "goose",
        GOOSE + "(1, true), (2, true), (3, true), (3, false), (2, false), (2, true)",
        {"00001_a.sql": APPLIED, "00002_b.sql": APPLIED, "00003_c.sql": TO_DO},
    ),
    "golang-migrate": (
        "golang-migrate", GOLANG + "(2, false)", {"000001_a.up.sql": APPLIED, "000002_b.up.sql": APPLIED, "000003_c.up.sql": TO_DO},
    ),
    "golang-migrate, dirty": (
        "golang-migrate",
        GOLANG + "(3, true)",
        {"000002_b.up.sql": APPLIED, "000003_c.up.sql": NOT_KNOWN, "000004_d.up.sql": NOT_KNOWN},
    ),
    "Atlas": (
        "Atlas",
        ATLAS + "('20260101', 'a', 2, 1, 1), ('.atlas_cloud_identifier', '', 0, 0, 0)",
        {"20260101_a.sql": APPLIED, "20260102_b.sql": TO_DO, "atlas.sum": ""},
    ),
    "Atlas, a baseline": (
        "Atlas",
        ATLAS + "('20260102', 'b', 1, 0, 0), ('20260104', 'd', 4, 0, 0)",
        {"20260101_a.sql": APPLIED, "20260102_b.sql": APPLIED, "20260103_c.sql": TO_DO, "20260104_d.sql": APPLIED, "atlas.sum": ""},
    ),
    "Atlas, a part": (
        "Atlas",
        ATLAS + "('20260101', 'a', 6, 1, 2), ('20260102', 'b', 2, 1, 2)",
        {"20260101_a.sql": APPLIED, "20260102_b.sql": NOT_KNOWN, "atlas.sum": ""},
    ),
    "SQLx": (
        "SQLx",
        SQLX + "(1, 'a b', true, '', 1), (20260102000000, 'renamed', true, '', 1)",
        {"0001_a_b.sql": APPLIED, "20260102000000_c.up.sql": APPLIED, "20260103000000_d.up.sql": TO_DO},
    ),
    "SQLx, failed": ("SQLx", SQLX + "(1, 'a', false, '', 1)", {"0001_a.sql": NOT_KNOWN}),
    "refinery": (
        "refinery",
        "create table public.refinery_schema_history (version int4 primary key, name varchar(255), applied_on varchar(255), checksum varchar(255)); "
        "insert into public.refinery_schema_history values (1, 'a', '', '')",
        {"V01__a.sql": APPLIED, "V02__b.sql": TO_DO},
    ),
    "node-pg-migrate": (
        "node-pg-migrate",
        "create table public.pgmigrations (id serial primary key, name varchar(255) not null, run_on timestamp not null); "
        "insert into public.pgmigrations (name, run_on) values ('1767225600000_a', now())",
        {"1767225600000_a.sql": APPLIED, "1767225600001_b.sql": TO_DO},
    ),
    "sql-migrate": (
        "sql-migrate",
        "create table public.gorp_migrations (id text primary key, applied_at timestamptz); insert into public.gorp_migrations values ('1_a.sql', now())",
        {"1_a.sql": APPLIED, "2_b.sql": TO_DO},
    ),
    "graphile-migrate": (
        "graphile-migrate",
        "create schema graphile_migrate; create table graphile_migrate.migrations (hash text primary key, previous_hash text, "
        "filename text not null, date timestamptz not null default now()); insert into graphile_migrate.migrations values ('h0', null, '000001.sql')",
        {"000001.sql": APPLIED, "000002.sql": TO_DO},
    ),
    "yoyo": (
        "yoyo",
        "create table public._yoyo_migration (migration_hash varchar(64) primary key, migration_id varchar(255), applied_at_utc timestamp); "
        "insert into public._yoyo_migration values ('', '0001.a', now())",
        {"0001.a.sql": APPLIED, "0002.b.sql": TO_DO},
    ),
    "Postgrator": (
        "Postgrator",
        "create table public.schemaversion (version bigint primary key, name text, md5 text, run_at timestamptz); "
        "insert into public.schemaversion values (0, null, null, null), (2, 'b', '', now())",
        {"001.do.a.sql": APPLIED, "002.do.b.sql": APPLIED, "003.do.c.sql": TO_DO},
    ),
}  # fmt: skip


def prepare(project: Project, case: str) -> dict[str, str]:
    """Make a case's table, and its files. Returns the table that each file makes."""
    tool, made, files = CASES[case]
    with project.database.connect() as connection:
        connection.execute(made.encode())
    tables: dict[str, str] = {}
    for name, state in files.items():
        path = project.folder / name
        path.parent.mkdir(exist_ok=True)
        is_migration = name.endswith(".sql")
        if is_migration:
            tables[name] = f"t{len(tables)}"
        path.write_text(text(len(tables) - 1, tool) if is_migration else state)
    return tables


def states(outcome: Outcome) -> dict[str, str]:
    return {row["file"]: row["state"] for row in outcome.report["files"]}


@pytest.mark.parametrize("case", CASES)
def test_what_another_tool_has_applied_is_not_run_again(project: Project, case: str) -> None:
    tool, _, files = CASES[case]
    tables = prepare(project, case)
    expected = {name: state if (state := files[name]) == TO_DO else f"{state} {tool}" for name in tables}
    assert states(project.run(status=True)) == expected
    not_known = [name for name in tables if files[name] == NOT_KNOWN]
    if not_known:
        for outcome in (project.run(), project.run(include_all=True), project.run(dry_run=True)):
            assert "It cannot be told whether this is applied: " + ", ".join(not_known) in failure(outcome).message
            assert tool in failure(outcome).message
            assert (failure(outcome).hint or "").startswith("Nothing was run. ")
        assert not set(tables.values()) & set(project.tables)
    for name in not_known:
        assert "It cannot be told" in failure(project.run(name.removesuffix(".sql"))).message
        (project.folder / name).unlink()
    if len(not_known) < len(tables):
        assert project.run(include_all=True).exit_code == 0
        assert project.run().report["outcome"] == "nothing to do"
    assert {name for name, table in tables.items() if table in project.tables} == {
        name for name in tables if files[name] == TO_DO
    }


def test_what_another_tool_has_applied_since_it_was_begun_here(project: Project) -> None:
    steps = "-- step: one\nselect 1;\n-- step: two\n"
    project.write(V1__a=f"{steps}select 1 / 0;\n")
    failure(project.run())
    with project.database.connect() as connection:
        connection.execute((FLYWAY + "(1, '1', 'a', 'SQL', 'V1__a.sql', true)").encode())
    project.write(V1__a=steps + text(0))
    for outcome in (project.run(), project.run("V1__a"), project.run(dry_run=True)):
        assert (
            "V1__a.sql was begun here, and counts as applied for Flyway. Not done here: two" in failure(outcome).message
        )
    with project.database.connect() as connection:
        connection.execute("select rpc_migrations.mark_undone('V1__a')")
    assert project.run().report["outcome"] == "nothing to do"
    assert "t0" not in project.tables


def test_line_ends_of_another_checkout(project: Project) -> None:
    """Git may write the lines of files with CRLF that others had with LF."""
    tables = prepare(project, "Drizzle")
    for name, place in zip(tables, range(len(tables)), strict=True):
        (project.folder / name).write_bytes(text(place).replace("\n", "\r\n").encode())
    assert list(states(project.run(status=True)).values()) == ["applied by Drizzle", "to do"]


def test_a_file_that_a_tool_has_applied_is_told_alone(project: Project) -> None:
    prepare(project, "goose")
    assert project.run("00001_a").lines[-1].endswith("is applied by goose already.")
    assert project.run().exit_code == 0
    assert project.run().lines[-1].endswith("2 of 2 files are applied, 1 of them by goose.")


@pytest.mark.parametrize("case", ["goose", "golang-migrate", "golang-migrate, dirty", "dbmate", "Atlas, a baseline"])
def test_another_tool_s_table_says_nothing_of_files_that_are_not_its_own(project: Project, case: str) -> None:
    """Numbers are alike, and that of its last file covers all before it."""
    with project.database.connect() as connection:
        connection.execute(CASES[case][1].encode())
    project.write(_00001_a=text(0), _00002_b=text(1), _20260101_c=text(2))
    assert project.run().exit_code == 0
    assert {"t0", "t1", "t2"} <= set(project.tables)


def test_a_journal_of_drizzle_that_cannot_be_read(project: Project) -> None:
    prepare(project, "Drizzle, edited since")
    journal: Path = project.folder / "meta" / "_journal.json"
    journal.write_text('{"entries": [{"tag": "0000_hulk"')
    for outcome in (project.run(), project.run(include_all=True)):
        assert "cannot be read as Drizzle's journal" in failure(outcome).message
    assert not {"t0", "t1"} & set(project.tables)
