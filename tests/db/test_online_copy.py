"""Each part of the copy by itself: what is refused, what is waited for, any key, any column, a table that moves."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import psycopg
import pytest
from local_supabase import Database
from schema_dump import dump_schema
from step_runner import (
    GIVE_UP,
    ONE_AT_A_TIME,
    ROLLBACK,
    Connection,
    calls,
    deploy,
    is_blocked,
    read,
    rebuild_file,
    run,
    wait_until_blocked,
)

COLUMNS = "id integer not null, name text, amount integer"
STEP_FILE = rebuild_file("things", COLUMNS)


@pytest.fixture
def things(admin: Connection) -> Connection:
    """A connection to a database with the functions and a table of forty rows, five to a block."""
    deploy(admin, ONE_AT_A_TIME)
    admin.execute(
        "create table public.things (id integer primary key, name text, amount integer) with (autovacuum_enabled = false)"
    )
    admin.execute("insert into public.things select n, repeat('x', 1500), n from generate_series(1, 40) as n")
    return admin


def rows(connection: Connection) -> list[str]:
    """All rows, in a comparable form."""
    found = connection.execute("select to_jsonb(t)::text from public.things as t order by id")
    return [row[0] for row in found.fetchall()]


def refused(connection: Connection, text: str, sqlstate: str, until: str = "") -> str:
    """The message, detail and hint with which a step file is refused."""
    with pytest.raises(psycopg.Error) as caught:
        run(connection, text, until=until)
    assert caught.value.sqlstate == sqlstate, caught.value
    diagnostics = caught.value.diag
    assert diagnostics.message_hint
    return f"{diagnostics.message_primary}\n{diagnostics.message_detail}\n{diagnostics.message_hint}"


ALTERATIONS = {
    "a column": ("alter table public.things add extra text", "column extra"),
    "a default": ("alter table public.things alter name set default 'x'", "column name"),
    "an index": ("create index later on public.things (amount)", "index later"),
    "a policy": ("create policy later on public.things using (true)", "policy later"),
    "a trigger": (
        "create trigger later before update on public.things for each row execute function suppress_redundant_updates_trigger()",
        "trigger later",
    ),
    "a right": ("grant insert on public.things to public", "grant INSERT public"),
    "a view": ("create view public.later as select * from public.things", "view public.later"),
    "its name": ("alter table public.things rename to others", "was renamed or moved"),
    "switched-off triggers": ("alter table public.things disable trigger user; alter table public.things enable trigger user", "changes may have been missed"),
}  # fmt: skip


@pytest.mark.parametrize("until", ["begin the copy", "copy the rows", "compare"])
@pytest.mark.parametrize(("statement", "named"), ALTERATIONS.values(), ids=ALTERATIONS)
def test_altered_table_is_not_swapped(
    things: Connection, database: Database, statement: str, named: str, until: str
) -> None:
    """Whoever alters the old table in the meantime does not lose that; the message says what it was."""
    run(things, STEP_FILE, until=until)
    things.execute(statement)
    before = dump_schema(database)
    assert named in refused(things, STEP_FILE, "RM003")
    assert dump_schema(database) == before
    run(things, read(ROLLBACK))
    if named != "column id":
        run(things, STEP_FILE)


def in_the_swap(*, before_the_plan: str = "perform 1", before_the_lock: str) -> list[tuple[str, str]]:
    """Changes with which statements run before the swap finds what it carries over, and between that and its lock."""
    check, found = "check_source(copy);\n        select", "\n    return carried;\n"
    return [
        (check, check.replace("select", f"{before_the_plan};\n        select")),
        (found, f"\n    {before_the_lock};{found}"),
    ]


@pytest.mark.parametrize(("statement", "named"), ALTERATIONS.values(), ids=ALTERATIONS)
def test_alteration_just_before_the_lock_of_the_swap(things: Connection, statement: str, named: str) -> None:
    """It comes after what the swap carries over was found, and is told all the same."""
    run(things, STEP_FILE, until="compare")
    deploy(things, in_the_swap(before_the_lock=statement))
    assert named in refused(things, STEP_FILE, "RM003")


def test_alteration_that_is_taken_back_before_the_lock_of_the_swap(things: Connection) -> None:
    """Under the lock the table is what it was. But what the swap carries over was found without the view."""
    view = "create view public.names as select name from public.things"
    things.execute(view)
    run(things, STEP_FILE, until="compare")
    deploy(things, in_the_swap(before_the_plan="drop view public.names", before_the_lock=view))
    assert "view public.names" in refused(things, STEP_FILE, "RM003")


RIGHTS = {
    "on the table": "grant insert on public.things to public",
    "on a column": "grant insert (name) on public.things to public",
}


@pytest.mark.parametrize("right", RIGHTS.values(), ids=RIGHTS)
def test_a_right_that_is_given_under_the_lock_of_the_swap(things: Connection, database: Database, right: str) -> None:
    """Up to PostgreSQL 17 GRANT asks for no lock on the table, and the swap is refused; later it waits, and the new table has the right."""
    run(things, STEP_FILE, until="compare")
    exchange = "perform rpc_migrations.exchange(copy, carried);"
    deploy(
        things, [(exchange, f"perform set_config('lock_timeout', '0', true), pg_advisory_xact_lock(42); {exchange}")]
    )
    with database.connect() as gate, database.connect() as other, ThreadPoolExecutor(2) as pool:
        gate.execute("select pg_advisory_lock(42)")
        swap = pool.submit(run, things, STEP_FILE)
        wait_until_blocked(gate, things.info.backend_pid)
        grant = pool.submit(other.execute, right.encode())
        while not grant.done() and not is_blocked(gate, other.info.backend_pid):
            pass
        gate.execute("select pg_advisory_unlock(42)")
        grant.result()
        failed = swap.exception()
    assert isinstance(failed, psycopg.Error) and "grant INSERT" in str(failed) if failed else has_right(things)


GRANTS = {
    "on the table": "grant select on public.things to anon",
    "on a column": "grant insert (name) on public.things to anon",
    "on its sequence": "grant usage on sequence public.things_number_seq to anon",
    "on a view": "grant select on public.names to anon",
    "on a function": "grant execute on function public.how_many() to anon",
    "on all tables": "grant select on all tables in schema public to anon",
}


@pytest.mark.parametrize("grant", GRANTS.values(), ids=GRANTS)
def test_a_right_that_is_granted_again_while_the_swap_waits(things: Connection, database: Database, grant: str) -> None:
    """Both ways. GRANT writes anew what is there already, in part without a lock that the swap could wait for: PostgreSQL then fails with
    "tuple concurrently updated". The attempt is undone, and the next one succeeds.
    """
    things.execute(
        "alter table public.things add number integer generated by default as identity; "
        "create view public.names as select id, name from public.things; "
        "create function public.how_many() returns bigint language sql stable begin atomic select count(*) from public.things; end"
    )
    things.execute(";".join(GRANTS.values()).encode())
    things.execute("drop function public.execute_sql")
    before = database.dump_schema("--schema=public")
    patiently = "perform set_config('lock_timeout', '0', true); "
    exchanges = (
        "perform rpc_migrations.exchange(copy, carried);",
        "kept_as := rpc_migrations.exchange_back_or_refuse(copy);",
    )
    deploy(things, [(exchange, patiently + exchange) for exchange in exchanges])
    columns = f"{COLUMNS}, number integer generated by default as identity"
    for text, until in (
        (rebuild_file("things", columns), "compare"),
        (read(ROLLBACK), "roll back: compare the two tables"),
    ):
        run(things, text, until=until)
        with database.connect() as other, database.connect() as watcher, ThreadPoolExecutor(1) as pool:
            with other.transaction():
                other.execute(grant.encode())
                swap = pool.submit(run, things, text)
                while not is_blocked(watcher, things.info.backend_pid) and not swap.done():
                    pass
            assert swap.result()[-1].answer["state"] == "done"
    (kept_as,) = things.execute("select kept_as from rpc_migrations.copies").fetchall()[0]
    things.execute(f"drop table {kept_as}; drop function public.execute_sql".encode())
    assert database.dump_schema("--schema=public") == before


def has_right(things: Connection) -> bool:
    """Whether everyone may insert into a column of it."""
    return things.execute("select has_column_privilege('anon', 'public.things', 'name', 'insert')").fetchone() == (
        True,
    )


# Alterations that change rows, which no trigger sees, and leave the table's form as it was.
REWRITTEN = {
    "values": "alter table public.things alter amount type integer using amount + 1000",
    "there and back": "alter table public.things alter name type integer using 7; alter table public.things alter name type text",
    "a column made anew": "alter table public.things drop amount; alter table public.things add amount integer",
    "columns that change names": (
        "alter table public.things rename amount to a; alter table public.things rename other to amount; "
        "alter table public.things rename a to other"
    ),
    "triggers switched off and on": (
        "alter table public.things disable trigger user; update public.things set amount = 0; truncate public.things; "
        "alter table public.things enable always trigger rpc_migrations_capture, enable always trigger rpc_migrations_capture_truncate"
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "when", ["after the comparison", "before the lock", "in a rollback", "before the lock of a rollback"]
)
@pytest.mark.parametrize("statement", REWRITTEN.values(), ids=REWRITTEN)
def test_rows_that_are_changed_without_a_trigger_are_not_lost(things: Connection, statement: str, when: str) -> None:
    """The comparison is done again, and stops the migration; then it can be begun anew, and a rollback given up."""
    things.execute("alter table public.things add other integer")
    text = rebuild_file("things", COLUMNS + ", other integer")
    if "rollback" in when:
        run(things, text)
        text, until, way_out = read(ROLLBACK), "roll back: compare the two tables", read(GIVE_UP)
    else:
        until, way_out = "compare", read(ROLLBACK)
    run(things, text, until=until)
    if "lock" in when:
        place = "    for statement in\n        (select format(case when d.is_view"
        deploy(things, [*ONE_AT_A_TIME, (place, f"    {statement};\n{place}")])
        swaps = ("swap", "roll back: swap the tables back")
        first = next(call for call in calls(things, text) if call.step in swaps)  # is undone, with what was put into it
        assert first.answer["state"] == "waiting"
        deploy(things, ONE_AT_A_TIME)
    things.execute(statement)
    now = rows(things)
    message = refused(things, text, "RM004")
    assert "differ" in message
    assert ("--give-up" in message) == ("rollback" in when)
    assert rows(things) == now
    run(things, way_out)
    run(things, text)
    assert rows(things) == now


@pytest.mark.parametrize("begun_by", ["this version", "an earlier one"])
def test_what_was_compared_in_another_request_is_finished_in_one_transaction(
    things: Connection, database: Database, begun_by: str
) -> None:
    """As in the SQL Editor, where no attempt can be left for a later request."""
    run(things, STEP_FILE, until="compare")
    if begun_by == "this version":
        with database.connect() as other:
            other.execute("vacuum full public.things")
    else:
        things.execute("update rpc_migrations.copies set compared_form = null")
    things.execute("update public.things set amount = 7 where id < 4")
    now = rows(things)
    with things.transaction():
        made = list(islice(calls(things, STEP_FILE), 20))
    assert made[-1].step == "validate"
    assert rows(things) == now


def test_a_table_that_was_dropped_meanwhile_is_told(things: Connection) -> None:
    run(things, STEP_FILE, until="begin the copy")
    things.execute("drop table public.things")
    assert "was dropped" in refused(things, STEP_FILE, "RM003")
    run(things, read(ROLLBACK))
    assert things.execute("select count(*) from rpc_migrations.copies where ended_at is null").fetchone() == (0,)


@pytest.mark.parametrize(
    ("statement", "left"),
    [("alter table rpc_migrations.things set schema public", 40), ("drop table rpc_migrations.things", None)],
)
def test_the_only_copy_of_a_dropped_table_is_not_removed(things: Connection, statement: str, left: int | None) -> None:
    """Unless the person says so."""
    run(things, STEP_FILE, until="copy the rows")
    things.execute("drop table public.things")
    assert "rpc_migrations.things has the rows that were copied before" in refused(things, read(ROLLBACK), "RM001")
    things.execute(statement)
    run(things, read(ROLLBACK))
    assert things.execute("select to_regclass('public.things') is null").fetchone() == (left is None,)
    assert left is None or len(rows(things)) == left


MISFITS = {
    "null": ("update public.things set name = null where id < 4", "id integer not null, name text not null, amount integer", "in 3 rows, "),
    "too long": ("select", "id integer not null, name varchar(10), amount integer", "in 40 row"),
    "rounded": (
        "alter table public.things alter amount type numeric using amount + 0.123",
        "id integer not null, name text, amount numeric(8, 2)", "in 40 row",
    ),
    "a fraction": ("alter table public.things alter amount type numeric using amount / 2.0", COLUMNS, "in 20 row"),
    "out of range": ("alter table public.things alter amount type bigint using amount + 3000000000", COLUMNS, "integer out of range"),
    "a date without its time": (
        "alter table public.things alter amount type timestamp using timestamp '2026-01-01 12:00'",
        "id integer not null, name text, amount date", "in 40 row",
    ),
    "no cast": ("select", "id integer not null, name uuid, amount integer", "column name is text and cannot become uuid"),
    "no default": ("select", COLUMNS + ", more integer not null", "column more of the new table is not null"),
    "no longer generated": (
        "alter table public.things add more integer generated always as (amount + 1) stored", COLUMNS + ", more integer", "no way back"
    ),
    "a view's column": ("create view public.v as select amount from public.things", "id integer not null, name text, amount bigint", "public.v"),
}  # fmt: skip


@pytest.mark.parametrize(("statement", "columns", "named"), MISFITS.values(), ids=MISFITS)
def test_rows_that_do_not_fit(things: Connection, database: Database, statement: str, columns: str, named: str) -> None:
    """Counted and named before anything changes, with a query that finds them."""
    things.execute(statement)
    before = dump_schema(database)
    message = refused(things, rebuild_file("things", columns), "RM001")
    assert named in message
    assert "Nothing was changed" in message
    if "this query finds" in message:
        query = message.split("finds: ")[1].split("\n")[0]
        assert f"in {things.execute(query).rowcount} row" in message
    assert dump_schema(database) == before


def test_a_row_that_does_not_fit_is_found_among_values_that_change_places(things: Connection) -> None:
    """Its batch is too large, and a smaller one too small: the value that moves there is still another row's."""
    deploy(things)
    things.execute("alter table public.things add unique (amount)")
    columns = "id integer not null, name varchar(1600), amount integer, unique (amount)"
    text = rebuild_file("things", columns)
    run(things, text, until="carry over")
    for row, amount in ((2, None), (1, 2), (2, 1)):
        things.execute("update public.things set amount = %s where id = %s", [amount, row])
    things.execute("update public.things set name = repeat('x', 1700) where id = 3")
    with pytest.raises(psycopg.Error, match=r"does not fit: in the row with the key \(3\): value too long") as caught:
        next(calls(things, text[text.index("-- step: replay") :]))
    assert caught.value.sqlstate == "RM001"
    things.execute("update public.things set name = '' where id = 3")
    run(things, text)
    assert things.execute("select id, amount from public.things where id < 4 order by id").fetchall() == [
        (1, 2),
        (2, 1),
        (3, 3),
    ]


def test_a_value_that_is_too_long_for_an_index_is_found(things: Connection) -> None:
    """Written since the copy began: its row is named, and the batch gets smaller until it is the only one."""
    text = rebuild_file("things", "id integer not null, name text, amount integer, unique (name)")
    things.execute("update public.things set name = id where true")
    run(things, text, until="carry over")
    things.execute(
        "update public.things set name = (select string_agg(md5(n::text), '') from generate_series(1, 300) as n) where id = 7"
    )
    message = refused(things, text[text.index("-- step: replay") :], "RM001")
    assert "in the row with the key (7): index row" in message


def test_a_value_that_is_there_twice_is_refused_before_the_locks(things: Connection) -> None:
    """Written since the copy began, where only the new table may not have it twice. Named with the value, and no step of it is done."""
    text = rebuild_file("things", "id integer not null, name text, amount integer, constraint once unique (amount)")
    run(things, text, until="carry over")
    things.execute("update public.things set amount = 5 where id = 7")
    for until in ("replay", "swap"):
        message = refused(things, text[text.index(f"-- step: {until}") :], "RM001")
        assert "Key (amount)=(5) already exists" in message
        things.execute("update public.things set amount = 7 where id = 7")
        run(things, text, until="compare")
        things.execute("update public.things set amount = 5 where id = 7")
    things.execute("update public.things set amount = 7 where id = 7")
    run(things, text)


@pytest.mark.parametrize("until", ["copy the rows", "compare"])
@pytest.mark.parametrize(
    ("change", "back"),
    [
        ("rename id to nr", "rename nr to id"),
        ("alter id type bigint", "alter id type integer"),
        ("alter id type text", None),
    ],
)
def test_a_column_that_tells_rows_apart_is_altered_meanwhile(
    things: Connection, change: str, back: str | None, until: str
) -> None:
    """The application goes on writing; and also after it was changed back nothing is swapped that lacks what was written meanwhile."""
    run(things, STEP_FILE, until=until)
    things.execute(f"alter table public.things {change}")
    things.execute(
        "insert into public.things values (3000000000, 'new', 1)"
        if "type" in change
        else "delete from public.things where nr = 5"
    )
    things.execute("update public.things set amount = 8 where amount = 9")
    left = things.execute("select amount from public.things order by amount").fetchall()
    assert "was altered since the copy began" in refused(things, STEP_FILE, "RM003")
    if back and "rename" in back:
        things.execute(f"alter table public.things {back}")
        message = refused(things, STEP_FILE, "RM003")
        assert "changes were missed" in message
        assert "To take the alteration back is not enough" in message
    run(things, read(ROLLBACK))
    assert things.execute("select amount from public.things order by amount").fetchall() == left


def test_types_that_fit(things: Connection) -> None:
    """Wider types, and json in other words."""
    things.execute("alter table public.things add j json, add n numeric(6, 2), add v varchar(20)")
    things.execute("""update public.things set j = '{"a":  1}', n = id, v = 'v'""")
    columns = "id bigint not null, name text, amount numeric, j jsonb, n numeric(8, 2), v varchar(40)"
    run(things, rebuild_file("things", columns))
    assert things.execute("select id, amount, j, n, v from public.things where id = 7").fetchone() == (
        7,
        7,
        {"a": 1},
        7,
        "v",
    )


def test_columns_of_all_kinds_are_copied_and_compared(things: Connection) -> None:
    """Types without a hash or an equality of their own are copied and compared as well."""
    things.execute(
        "alter table public.things add a json default '[1]', add c point default '(1,2)', add d json[] default '{1}', "
        "add e int4range default '[1,5)', add f bytea default '\\x00', add g interval default '1 month', add h char(5) default 'xyz', "
        "add i \"char\" default 'x', add j name default 'x', add k bit(3) default '101', add l float8 default 'nan', add m inet default '::1', "
        "add n tsvector default 'a b', add o money default 1, add p text[] default '{a}', add q jsonb default '{}'"
    )
    before = rows(things)
    run(things, STEP_FILE)
    assert rows(things) == before
    things.execute("update public.things set a = '[2]', l = 1, p = '{b}' where id % 2 = 0")
    before = rows(things)
    run(things, read(ROLLBACK))
    assert rows(things) == before


@pytest.mark.parametrize(
    ("keys", "columns"),
    [
        ("a", "a uuid not null default gen_random_uuid()"),
        ("a", "a bigint not null"),
        ("a", "a text not null"),
        ("a", 'a text collate "C" not null'),
        ("a", "a text collate public.lax not null"),
        ("a, b, c", "a integer not null, b timestamptz not null default '2026-01-01', c text not null default 'c'"),
        ("b, a", "a smallint not null, b numeric not null default 1.50"),
        ("a", "a date not null"),
        ("a", "a int4range not null"),
    ],
)  # fmt: skip
def test_rows_are_found_by_any_kind_of_primary_key(admin: Connection, keys: str, columns: str) -> None:
    """Rows are found again by the equality of their key's own index."""
    deploy(admin, ONE_AT_A_TIME)
    if "lax" in columns:
        try:
            admin.execute(
                "create collation public.lax (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
            )
        except psycopg.errors.FeatureNotSupported:
            pytest.skip("this PostgreSQL has no ICU")
    value = {
        "uuid": "lpad({}::text, 32, '0')::uuid",
        "date": "date '2026-01-01' + {}",
        "int4": "int4range({0}, {0} + 3)",
    }.get(columns.split()[1][:4].removesuffix("r"), "{}")
    if columns.startswith("a text"):
        value = "'Key' || {}"
    admin.execute(f"create table public.things ({columns}, value integer, primary key ({keys}))")
    admin.execute(
        f"insert into public.things (a, value) select {value.format('n')}, n from generate_series(1, 50) as n"
    )
    text = rebuild_file("things", columns + ", value integer")
    step = 0
    for name in (text, read(ROLLBACK)):
        for _ in calls(admin, name, shrink=9):
            step += 1
            admin.execute(f"update public.things set value = value + 1000 where a = {value.format(step)}")
            admin.execute(f"delete from public.things where a = {value.format(step + 25)}")
            if "lax" in columns:  # the same key in other letters
                admin.execute("update public.things set a = lower(a) where a = 'KEY' || %s", [step + 1])
    assert admin.execute("select count(*), count(*) filter (where value > 1000) from public.things").fetchone() == (
        50 - min(step, 25), min(step, 25),
    )  # fmt: skip


@pytest.mark.parametrize(
    "statement", ["truncate public.things", "vacuum full public.things", "cluster public.things using things_pkey"]
)
def test_a_table_that_is_rewritten_meanwhile_is_copied_anew(things: Connection, statement: str) -> None:
    """At any moment of the migration the table may get another file."""
    for place in range(1, 20, 3):
        before: list[str] = []
        for number, _ in enumerate(calls(things, STEP_FILE, shrink=9)):
            if number == place:
                things.execute("delete from public.things where id % 9 = 0")
                things.execute(statement)
                things.execute("insert into public.things select n, 'new' from generate_series(1001, 1020) as n")
                before = rows(things)
        assert not before or rows(things) == before
        run(things, read(ROLLBACK))
        things.execute("truncate public.things")
        things.execute("insert into public.things select n, repeat('x', 1500), n from generate_series(1, 40) as n")


LOCKS = {
    "a writer": ("insert into public.things values (99)", {"begin the copy", "swap"}),
    "a reader": ("select count(*) from public.things", {"swap"}),
    "a lock on it": (
        "lock table public.things in access exclusive mode",
        {"begin the copy", "copy the rows", "carry over", "replay", "compare", "swap"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("statement", "waiting"), LOCKS.values(), ids=LOCKS)
def test_waits_for_a_lock(things: Connection, database: Database, statement: str, waiting: set[str]) -> None:
    """While another transaction is in the way, a step says whose it is and changes nothing; afterwards it goes on."""
    seen = set()
    with database.connect() as other:
        pid = other.info.backend_pid
        other.execute("begin")
        other.execute(statement)
        for call in calls(things, STEP_FILE):
            if call.answer["state"] == "waiting":
                seen.add(call.step)
                assert pid in [holder["pid"] for holder in call.answer["holders"]]
                assert all("query" not in holder for holder in call.answer["holders"])
                other.execute("rollback")
            elif call.answer["state"] == "done" and not other.info.transaction_status:
                other.execute("begin")
                if call.step != "swap":
                    other.execute(statement)
    assert seen == waiting


def test_a_view_in_use_is_waited_for(things: Connection, database: Database) -> None:
    """Readers of a view lock it before the table; the swap does so too, and so gives way instead of standing across."""
    things.execute(
        "create view public.v as select id from public.things; create table public.w (id integer references public.things)"
    )
    for statement in ("select * from public.v", "insert into public.w values (1)"):
        with database.connect() as other:
            other.execute("begin")
            other.execute(statement)
            states = []
            for call in calls(things, STEP_FILE):
                if call.answer["state"] == "waiting":
                    states.append(call.step)
                    other.execute("rollback")
        assert states[-1] == "swap"
        run(things, read(ROLLBACK))


def test_a_table_with_the_name_of_the_backup_is_refused(things: Connection, database: Database) -> None:
    things.execute("create table public.things_backup (id integer)")
    before = dump_schema(database)
    message = refused(things, STEP_FILE, "RM001")
    assert "public.things_backup is already there" in message
    assert "`-- rebuild: public.things backup NAME`" in message
    assert dump_schema(database) == before


WRONG_FILES = {
    "no schema": (STEP_FILE.replace("'public.things', 'public.things_backup'", "'things', 'things_backup'"), "name with its schema"),
    "backup elsewhere": (STEP_FILE.replace("'public.things_backup'", "'auth.things_backup'"), "in the schema of the old table"),
    "backup of the same name": (STEP_FILE.replace("'public.things_backup'", "'public.things'"), "under another name"),
    "no new table": (STEP_FILE.replace("create table rpc_migrations.things", "create temporary table things"), "there is no table rpc_migrations.things"),
    "swap too early": (STEP_FILE.replace("-- step: compare\nselect * from rpc_migrations.compare();", ""), "the swap comes after"),
    "no begin": ("-- step: copy (batch)\nselect * from rpc_migrations.copy_batch();", "no table is being rebuilt"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_wrong_step_file(things: Connection, text: str, message: str) -> None:
    before = rows(things)
    assert message in refused(things, text, "RM005")
    assert rows(things) == before


def test_two_migrations_of_one_table(things: Connection) -> None:
    """The second is refused while the first is under way."""
    run(things, STEP_FILE, until="begin the copy")
    with pytest.raises(psycopg.Error, match="is already rebuilding") as caught:
        run(
            things,
            STEP_FILE.replace("create table rpc", "create table if not exists rpc").replace("_backup", "_b"),
            "other",
        )
    assert caught.value.sqlstate == "RM005"
    run(things, STEP_FILE)


def test_snapshot_of_the_whole_transaction_is_refused(things: Connection) -> None:
    """One that is older than the locks would hide what was written until they were had."""
    run(things, STEP_FILE, until="create the new table")
    things.execute("begin isolation level repeatable read")
    with pytest.raises(psycopg.Error, match="repeatable read"):
        run(things, STEP_FILE)
    things.execute("rollback")
    run(things, STEP_FILE)


def test_deferred_constraints_do_not_wait_for_the_commit(things: Connection) -> None:
    """What the replay writes is checked at once, so that the swap can alter the table in the same transaction."""
    things.execute(
        "create table public.names (name text primary key); insert into public.names values (repeat('x', 1500)), ('y'); "
        "alter table public.things add foreign key (name) references public.names deferrable initially deferred"
    )
    for call in calls(things, STEP_FILE):
        if call.step in ("carry over", "compare") and call.answer["state"] == "done":
            things.execute("update public.things set name = 'y' where id < 10")
    assert things.execute("select count(*) from public.things where name = 'y'").fetchone() == (9,)


def test_a_replica_s_writes_are_captured(things: Connection, database: Database) -> None:
    """Also those of a session in which ordinary triggers do not fire."""
    with database.connect("supabase_admin") as other:
        other.execute("set session_replication_role = replica")
        for number, _ in enumerate(calls(things, STEP_FILE, shrink=9)):
            other.execute("update public.things set amount = 1000 + %s where id = %s", (number, number + 1))
            other.execute("delete from public.things where id = %s", [40 - number])
        before = rows(things)
    assert len(before) == 40 - number - 1
    assert things.execute("select count(*) from public.things where amount >= 1000").fetchone() == (
        min(number + 1, 40 - number - 1),
    )


def test_all_in_one_transaction(things: Connection) -> None:
    """As a paste into the SQL Editor does it."""
    before = rows(things)
    with things.transaction():
        run(things, STEP_FILE)
    assert rows(things) == before
    with things.transaction():
        run(things, read(ROLLBACK))
    assert rows(things) == before


def test_nothing_is_left_in_the_schema(things: Connection) -> None:
    """After a rollback, as after a swap, neither log nor trigger function nor table remains."""
    left_over = (
        "select (select count(*) from pg_class where relnamespace = 'rpc_migrations'::regnamespace and relname ~ '^(log_|things)'), "
        "(select count(*) from pg_proc where proname ~ '^capture_[0-9]'), (select count(*) from pg_trigger where tgname ~ '^rpc_migrations')"
    )
    for text in (STEP_FILE, read(ROLLBACK)):
        run(things, text)
        assert things.execute(left_over).fetchone() == (0, 0, 0)
