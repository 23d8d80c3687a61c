"""What is written for another tool: comments and names that mean something to it, and would be run here, or in another order."""

from __future__ import annotations

from pathlib import Path

import pytest
from rpc_migrations.errors import StepFileError
from rpc_migrations.file_checks import check
from rpc_migrations.other_tools import out_of_order, ways_back, without_number
from rpc_migrations.step_file import read_migrations

A = "create table public.a (id integer);\n"
WAYS_BACK_IN_THE_FILE = {
    "dbmate": f"-- migrate:up\n{A}\n-- migrate:down\ndrop table public.a;\n",
    "dbmate, with an option": f"-- migrate:up transaction:false\n{A}\n-- migrate:down transaction:false\ndrop table public.a;\n",
    "goose": f"-- +goose Up\n-- +goose StatementBegin\n{A}-- +goose StatementEnd\n-- +goose Down\ndrop table public.a;\n",
    "sql-migrate": f"-- +migrate Up\n{A}-- +migrate Down notransaction\ndrop table public.a;\n",
    "node-pg-migrate": f"-- Up Migration\n{A}-- Down Migration\ndrop table public.a;\n",
    "tern": f"{A}---- create above / drop below ----\ndrop table public.a;\n",
    "mybatis": f"-- // a\n{A}\n-- //@UNDO\ndrop table public.a;\n",
    "apply and rollback": f"-- migrate: apply\n{A}-- migrate: rollback\ndrop table public.a;\n",
    "rambler": f"-- rambler up\n{A}-- rambler down\ndrop table public.a;\n",
    "a heading": f"------- UP -------\n{A}------- DOWN -------\ndrop table public.a;\n",
    "a word": f"begin;\n{A}  -- Rollback:\ndrop table public.a;\ncommit;\n",
    "Windows": f"-- Up\r\n{A}-- Down\r\ndrop table public.a;\r\n",
}


def refusal(folder: Path, name: str, text: str) -> str:
    """What a file is refused with; nothing where it is not."""
    file = folder / f"{name}.sql"
    file.write_bytes(text.encode())
    try:
        check(read_migrations(file))
    except StepFileError as error:
        return f"{error.message}\n{error.details}"
    return ""


@pytest.mark.parametrize("tool", WAYS_BACK_IN_THE_FILE)
def test_a_way_back_below_a_comment(tmp_path: Path, tool: str) -> None:
    found = refusal(tmp_path, "1_a", WAYS_BACK_IN_THE_FILE[tool])
    assert (
        "SQL that would be run as well. This looks like the way back: put it into a comment `/* rollback: ... */`"
        in found
    )


def test_its_line_is_told_also_in_a_step(tmp_path: Path) -> None:
    assert "1_a.sql:4: `-- Down`" in refusal(
        tmp_path, "1_a", "-- step: one\n\nselect 1;\n-- Down\nselect 2;\n-- step: two\nselect 3;\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        f"-- migrate:up\n{A}-- migrate:down\n",
        f"-- +goose Up\n-- +goose StatementBegin\n{A}-- +goose StatementEnd\n",
        f"begin;\n{A}-- Rollback\n-- drop table public.a;\ncommit;\nnotify pgrst;\n",
        f"{A}comment on table public.a is '\n-- Down\n';\nselect 1;\n",
        f"{A}do $$ begin\n-- undo\nperform 1; end $$;\n",
        f"begin;\n-- Revert\n{A}commit;\n",
        f"{A}select 1; -- down\nselect 2;\n-- shut down what was there, and roll back: nothing\nselect 3;\n",
        f"{A}/* rollback:\n-- step: down\ndrop table public.a;\n*/\n",
        f'{A}--> statement-breakpoint\ncomment on table "public"."a" is $$Hello ${{name}}$$;\n',
        f"-- atlas:txmode none\n\n{A}",
    ],
)
def test_what_is_plain_sql_all_the_same(tmp_path: Path, text: str) -> None:
    assert refusal(tmp_path, "1_a", text) == ""


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        (
            "1_a",
            f"--liquibase formatted sql\n--changeset me:1 dbms:mysql\n{A}",
            "which means something to another tool only",
        ),
        (
            "1_a",
            f"-- atlas:txtar\n\n-- checks.sql --\nselect false;\n\n-- migration.sql --\n{A}",
            "which means something to another tool only",
        ),
        ("1_a", f"-- +goose Up\n-- +goose ENVSUB ON\n{A}", "Write the values"),
        ("V1__a", f"{A}comment on table public.a is 'of ${{owner}}';\n", "V1__a.sql:2: the variable ${owner}"),
        ("V1__a", f"{A}do $$ begin perform '${{owner}}'; end $$;\n", "V1__a.sql:2: the variable ${owner}"),
    ],
)
def test_what_only_another_tool_knows(tmp_path: Path, name: str, text: str, why: str) -> None:
    assert why in refusal(tmp_path, name, text)


@pytest.mark.parametrize(
    ("names", "back"),
    [
        (["000001_a.up", "000001_a.down", "000002_b.up"], ["000001_a.down"]),
        (["0001.a", "0001.a.rollback"], ["0001.a.rollback"]),
        (["001_a.do", "001_a.UNDO"], ["001_a.UNDO"]),
        (["20260101-a-up", "20260101-a-down"], ["20260101-a-down"]),
        (["20260101_a", "20260101_a_rollback"], ["20260101_a_rollback"]),
        (["20260101_a_UP", "20260101_a_DOWN"], ["20260101_a_DOWN"]),
        (["up", "down"], ["down"]),
        (["001.do.a", "001.undo.a", "002.do.b", "002.undo.b-dropped"], ["001.undo.a", "002.undo.b-dropped"]),
        (["001_UP_a", "001_DOWN_a", "002_up_b"], ["001_DOWN_a"]),
        (["deploy-a", "revert-a"], ["revert-a"]),
        (["001_a", "001_rollback_a", "002_rollback_a"], ["001_rollback_a"]),
        (["1_slow_down", "2_rollback", "3_undo-revert", "down"], []),
        (["1_down_payments", "2_up_next", "3_undo_log_a", "3_a", "v1.2.undo_log"], []),
    ],
)
def test_ways_back_by_their_names(names: list[str], back: list[str]) -> None:
    assert ways_back(f"{name}.sql" for name in names) == [f"{name}.sql" for name in back]


@pytest.mark.parametrize(
    "names",
    [
        ("1_a", "2_b", "10_c"),
        ("V1__a", "V2__b", "V10__c"),
        ("V1_1__a", "V1_2__b", "V1_10__c"),
        ("V1__a", "V1.1__b", "V2__c"),
        ("1.2.0_a", "1.9.0_b", "1.10.0_c"),
        ("20260101_9_a", "20260101_10_b"),
        ("005B_a", "005_b"),
        ("migration_1", "migration_2", "migration_10"),
        ("Migration_1_a", "Migration_10_b", "migration_9_c"),
        ("schema", "v1.9.0", "v1.10.0"),
        ("step 1 - a", "step 2 - b", "step 10 - c"),
        ("20260101_a", "20260101000000_b", "20260102_c"),  # releases of the Supabase CLI differ
    ],
)
def test_an_order_that_the_names_do_not_tell(names: tuple[str, ...]) -> None:
    assert out_of_order(f"{name}.sql" for name in names)


@pytest.mark.parametrize(
    "names",
    [
        ("0001_a", "0002_b", "0010_c"),
        ("20260101_a", "20260102000000_b", "20260103_c"),
        ("001_2fa", "002_b", "002_c"),
        ("005_a", "005b_b", "005c_a", "006_c", "006b"),
        ("V01__a", "V02__b", "V10__c"),
        ("2026-01-01-a", "2026-01-02-b", "2026-10-01-c"),
        ("1700000000000_a", "1700000000001_b"),
        ("c", "a", "b"),
        ("migration_01", "migration_02", "migration_10", "seed_1"),
        ("fix_issue_1023", "fix_issue_998", "create_h264", "create_h3_index", "drop_365_day", "drop_90_day_limit"),
        ("users_2", "orders_10", "add_2fa", "add_10k_limit", "oauth2", "oauth_10"),
    ],
)
def test_an_order_that_the_names_tell(names: tuple[str, ...]) -> None:
    assert out_of_order(f"{name}.sql" for name in names) is None


def test_names_without_a_number() -> None:
    others = ["seed", "R__view", "U1__a", "B1__a", "afterMigrate", "Copy of 20260101000000_a", "_old", "2fa"]
    assert without_number([*others, "005b_a", "1_a", "V1__a", "20260101000000", "0001.a"]) == others
    assert without_number(others) == []
