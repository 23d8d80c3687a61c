"""What is tried again and what is not: real errors of the database and of the HTTP layers, through the real client."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import psycopg
import pytest
from bench import Bench, run_here, settings_for
from conftest import POSTGREST_VERSIONS, Scripts
from faults.proxy import Exchange, Fault
from rest_calls import rpc, wait_until
from rpc_migrations import client as client_module
from rpc_migrations import output_files
from rpc_migrations.client import (
    MAX_ATTEMPTS,
    MAX_ATTEMPTS_BEFORE_FIRST_ANSWER,
    MAX_ATTEMPTS_IN_CONFLICT,
    MAX_PAUSE,
    RpcClient,
)
from rpc_migrations.deployment import SIGNATURE
from rpc_migrations.errors import AccessRefused, Blocked, SqlError, StatementTimedOut, TransientError, Unreachable
from rpc_migrations.settings import PROJECT_ROOT
from step_runner import deploy

pytestmark = pytest.mark.slow
STEP = "count one"
COUNT_ONE = "update public.counter set n = n + 1 where true;"


def count(bench: Bench) -> int:
    """How often the step took effect."""
    return int(bench.ask("select n from public.counter")[0][0])


@pytest.fixture(params=POSTGREST_VERSIONS)
def postgrest(request: pytest.FixtureRequest) -> Any:
    """Each, since 14 tries some things again by itself."""
    return request.param


@pytest.fixture
def bench(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """With a counter, and a file whose step counts."""
    with bench.database.connect() as connection:
        connection.execute("create table public.counter as select 0 as n; create sequence public.attempts")
    # The way out when nobody answers; the tests of the commands look at it.
    monkeypatch.setattr(output_files, "write_migration", lambda *_, **__: PROJECT_ROOT / "db" / "not_written.sql")
    bench.file = bench.file.with_name("counting.sql")
    bench.heading = "-- A migration with one step, which must not be done twice.\n\n"
    bench.write({STEP: COUNT_ONE})
    bench.wait_until_heard_of()
    return bench


def page(status: int) -> Fault:
    """A gateway's page of HTML."""
    return lambda exchange: exchange.page(status)


def gateway_json(status: int) -> Fault:
    """A gateway's JSON: a message, and no code."""
    return lambda exchange: exchange.json(
        status, {"message": "An invalid response was received from the upstream server"}
    )


def gateway_code(status: int) -> Fault:
    """A gateway's JSON with a word of its own for what it is."""
    return lambda exchange: exchange.json(status, {"code": "over_request_rate_limit", "message": "Not now"})


def postgrest_says(status: int, code: str) -> Fault:
    """PostgREST's own JSON."""
    return lambda exchange: exchange.json(status, {"code": code, "message": "not now", "details": None, "hint": None})


def too_early(code: str, message: str = "JWT issued at future") -> Fault:
    """PostgREST's clock lags behind that of the gateway, which makes a token out of a secret key for each request."""
    return lambda exchange: exchange.json(401, {"code": code, "message": message})


def closed(exchange: Exchange) -> None:
    exchange.close()


def reset(exchange: Exchange) -> None:
    exchange.reset()


def forwarded_and_closed(exchange: Exchange) -> None:
    exchange.forward()
    exchange.close()


def cut(exchange: Exchange) -> None:
    exchange.answer(exchange.forward()[:-5])
    exchange.close()


def foreign_page(exchange: Exchange) -> None:
    """A hotel's page, with all signs of success."""
    exchange.page(200)


PASSING: dict[str, Fault] = {
    "closed without an answer": closed,
    "reset": reset,
    "closed after the commit": forwarded_and_closed,
    "cut in the middle": cut,
    "a hotel's page": foreign_page,
    **{
        f"HTTP {status}": page(status)
        for status in (408, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 530, 544)
    },
    "HTTP 302 to a hotel's page": lambda exchange: exchange.page(302, {"Location": "https://login.example/"}),
    **{f"HTTP {status} in JSON without a code": gateway_json(status) for status in (429, 500, 502, 503, 504)},
    **{f"HTTP {status} in JSON with a word of its own": gateway_code(status) for status in (429, 503)},
    "PGRST000": postgrest_says(503, "PGRST000"),
    "PGRST001": postgrest_says(503, "PGRST001"),
    "PGRST002": postgrest_says(503, "PGRST002"),
    "PGRST003": postgrest_says(504, "PGRST003"),
    "a token of the gateway's that comes too early": too_early("PGRST303"),
    "the same, of PostgREST 12": too_early("PGRST301", "JWTIssuedAtFuture"),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_tried_again(bench: Bench, name: str) -> None:
    """Twice in a row; the person is told each time, and the step takes effect once."""
    bench.faults = [PASSING[name]] * 2
    outcome = bench.run()
    assert outcome.exit_code == 0, outcome.error
    assert count(bench) == 1
    assert len(bench.attempts) == 3
    told = [note for note in outcome.notes if "trying again in" in note]
    assert [note[:16] for note in told] == ["attempt 1 failed", "attempt 2 failed"]
    if name.startswith("HTTP"):
        assert name[:8] in told[0]


def test_a_refused_connection_is_tried_again(bench: Bench) -> None:
    """Nobody listens for a while."""

    def go_away(exchange: Exchange) -> None:
        exchange.reset()
        bench.proxy.stop()
        threading.Timer(0.3, bench.proxy.start).start()

    bench.faults = [go_away]
    outcome = bench.run(retry_pause=0.1)
    assert outcome.exit_code == 0, outcome.error
    assert count(bench) == 1
    assert any("refused" in note for note in outcome.notes)


def test_an_answer_that_does_not_come_is_asked_for_again(bench: Bench) -> None:
    """No answer within the time that we wait, though the database has done it."""

    def hang(exchange: Exchange) -> None:
        exchange.forward()
        exchange.hang()

    bench.faults = [hang]
    outcome = bench.run(request_timeout=0.4)
    assert outcome.exit_code == 0, outcome.error
    assert count(bench) == 1
    assert any("no answer within 0.4 s" in note for note in outcome.notes)


@pytest.mark.parametrize(
    "code", ["40001", "40P01", "57P01", "57P02", "57P03", "53000", "53200", "53300", "53400", "08006"]
)
def test_errors_of_the_database_that_pass(bench: Bench, code: str) -> None:
    """Raised by real SQL; a sequence, which no rollback takes back, counts the attempts."""
    bench.write(
        {
            STEP: "do $$ begin if nextval('public.attempts') < 3 then "
            f"raise exception 'not now' using errcode = '{code}'; end if; "
            "update public.counter set n = n + 1 where true; end $$;"
        }
    )
    outcome = bench.run()
    assert outcome.exit_code == 0, outcome.error
    assert count(bench) == 1
    assert [note[:16] for note in outcome.notes] == ["attempt 1 failed", "attempt 2 failed"]
    assert f"{code}, not now" in outcome.notes[0]


def released_after_it(holder: psycopg.Connection[Any]) -> Fault:
    """A request during which somebody holds what it needs, and lets it go before the answer is back."""

    def release_after_it(exchange: Exchange) -> None:
        answer = exchange.forward()
        holder.rollback()
        exchange.answer(answer)

    return release_after_it


def test_a_lock_that_is_not_to_be_had(bench: Bench) -> None:
    """55P03: the database answers "waiting", with who is in the way, and the step is sent again."""
    with bench.database.connect(autocommit=False) as holder:
        holder.execute("lock table public.counter in access exclusive mode")
        pid = holder.info.backend_pid
        bench.faults = [released_after_it(holder)]
        outcome = bench.run()
    assert outcome.exit_code == 0, outcome.error
    assert (count(bench), len(bench.attempts)) == (1, 2)
    assert f"waiting for a lock: pid {pid} (idle in transaction, role postgres" in outcome.notes[0]


@pytest.mark.parametrize(
    "block",
    [
        "begin {}; exception when others then raise notice 'it is there'; end",
        "begin begin {}; exception when duplicate_column then null; when others then null; end; exception when others then null; end",
        "begin begin execute '{}'; exception when OTHERS or division_by_zero then null; end; end",
        "begin begin\n{};\nEXCEPTION -- why\n WHEN OTHERS THEN NULL; END; END",
    ],
)
def test_a_lock_that_is_not_to_be_had_is_no_error_that_a_block_may_catch(bench: Bench, block: str) -> None:
    """By psql it would have waited; here what the block does would be left out in silence."""
    statement = "alter table public.counter add column note text"
    bench.write({"one": f"do $$ {block.format(statement)} $$;"})
    with bench.database.connect(autocommit=False) as holder:
        holder.execute("lock table public.counter in access share mode")
        bench.faults = [released_after_it(holder)]
        outcome = bench.run()
    assert outcome.exit_code == 0, outcome.error
    assert bench.ask("select from pg_attribute where attrelid = 'public.counter'::regclass and attname = 'note'")
    assert "waiting for a lock" in outcome.notes[0]


@pytest.mark.parametrize(
    "what",
    [
        "lock table public.counter in access exclusive mode nowait; exception when others then",
        "lock table public.counter in access exclusive mode; exception when lock_not_available then",
        "lock table public.counter in access exclusive mode; exception when sqlstate '55P03' then",
        "set local lock_timeout = '10ms'; lock table public.counter in access exclusive mode; exception when others then",
    ],
)
def test_a_block_that_says_itself_what_then_is_left_alone(bench: Bench, what: str) -> None:
    with bench.database.connect(autocommit=False) as holder:
        holder.execute("lock table public.counter in access share mode")
        outcome = bench.run({"one": f"do $$ begin {what} create table public.busy (); end $$;"})
    assert outcome.exit_code == 0, outcome.error
    assert bench.ask("select to_regclass('public.busy')") == [("busy",)]


def test_waiting_for_a_lock_has_an_end(bench: Bench) -> None:
    """It says who is in the way, that nothing is half done, and how to wait longer."""
    with bench.database.connect(autocommit=False) as holder:
        holder.execute("lock table public.counter in access exclusive mode")
        pid = holder.info.backend_pid
        outcome = bench.run(patience=0.7)
    assert isinstance(outcome.error, Blocked)
    assert f"pid {pid}" in outcome.error.message
    assert "nothing is half done" in str(outcome.error.hint)
    assert "--patience" in str(outcome.error.hint)
    assert count(bench) == 0
    assert bench.run().exit_code == 0
    assert count(bench) == 1


def test_a_statement_that_raises_it_by_itself_is_told(bench: Bench) -> None:
    """It is tried again, as what waits for a lock is; then the line and its own words are told, not only that nobody is in the way."""
    outcome = bench.run(
        {"two": "select 1;\n\ndo $$ begin raise lock_not_available using message = 'the import is at work'; end $$;"},
        patience=0.7,
    )
    assert isinstance(outcome.error, Blocked)
    assert re.match(r'Step "two" \(\S+, line 6\): waited for a lock', outcome.error.message)
    assert (outcome.error.details or "").split("\n")[0] == "the import is at work"
    assert "\n6 | do $$ begin raise" in (outcome.error.details or "")


def test_attempts_are_capped_in_number(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that never gets better; the same command goes on when it does."""
    monkeypatch.setattr(client_module, "MAX_PAUSE", 0.01)
    bench.forever = page(503)
    outcome = bench.run()
    assert isinstance(outcome.error, Unreachable)
    assert f"No answer after {MAX_ATTEMPTS} attempts" in outcome.error.message
    assert "run the same command again" in str(outcome.error.hint)
    assert len(bench.attempts) == MAX_ATTEMPTS
    bench.forever = None
    assert bench.run().exit_code == 0
    assert count(bench) == 1


def test_attempts_are_capped_in_time(bench: Bench) -> None:
    """However many attempts there could be."""
    bench.forever = closed
    outcome = bench.run(retry_pause=0.3, patience=1.0)
    assert isinstance(outcome.error, Unreachable)
    assert 2 <= len(bench.attempts) <= 5


def test_a_database_that_goes_on_refusing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not told as "nobody answers": the step is named, and what the database says."""
    monkeypatch.setattr(client_module, "MAX_PAUSE", 0.01)
    bench.write(
        {STEP: "do $$ begin raise exception 'no memory left' using errcode = '53200', detail = 'context 1'; end $$;"}
    )
    outcome = bench.run()
    assert isinstance(outcome.error, SqlError)
    assert outcome.error.code == "53200"
    assert str(outcome.error.details).startswith("context 1\n")
    assert STEP in outcome.error.message
    assert f"Refused {MAX_ATTEMPTS} times" in outcome.error.message
    assert len(bench.attempts) == MAX_ATTEMPTS


@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_a_step_that_is_in_conflict_with_itself(bench: Bench, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """A few attempts, not twenty: most likely the step's own SQL raises it."""
    monkeypatch.setattr(client_module, "MAX_PAUSE", 0.01)
    bench.write({STEP: f"do $$ begin raise exception 'not now' using errcode = '{code}'; end $$;"})
    outcome = bench.run()
    assert isinstance(outcome.error, SqlError)
    assert outcome.error.code == code
    assert f'Step "{STEP}"' in outcome.error.message
    assert f"Refused {MAX_ATTEMPTS_IN_CONFLICT} times. The last time: {code}, not now" in outcome.error.message
    assert len(bench.attempts) == MAX_ATTEMPTS_IN_CONFLICT


def test_what_the_database_said_outlives_faults_of_the_way_there(bench: Bench) -> None:
    """The gateway's page of the last attempt is not what the person needs to know."""
    bench.write({STEP: "do $$ begin raise exception 'no memory left' using errcode = '53200'; end $$;"})
    bench.faults = [lambda exchange: exchange.answer(exchange.forward())]
    bench.forever = page(504)
    outcome = bench.run(retry_pause=0.05, patience=0.5)
    assert "before that 53200, no memory left" in outcome.notes[1]
    assert isinstance(outcome.error, SqlError)
    assert outcome.error.code == "53200"
    assert f'Step "{STEP}"' in outcome.error.message


def test_an_answer_busy_is_no_progress(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that gives up each time, and an earlier attempt that is still at work the next time: it has an end."""
    monkeypatch.setattr(client_module, "MAX_ATTEMPTS", 3)
    monkeypatch.setattr(client_module, "MAX_PAUSE", 0.01)
    with bench.database.connect(autocommit=False) as orphan:

        def begin(exchange: Exchange) -> None:
            orphan.execute("select pg_advisory_xact_lock(rpc_migrations.lock_key('counting'))")
            exchange.page(504)

        busy: Fault = lambda exchange: exchange.answer(exchange.forward())  # noqa: E731
        bench.faults = [begin, busy, page(504), busy, page(504), busy, busy]
        outcome = bench.run()
    assert isinstance(outcome.error, Unreachable)
    assert "No answer after 3 attempts" in outcome.error.message
    assert count(bench) == 0


def test_an_address_where_nobody_ever_answered(bench: Bench) -> None:
    """Is given up sooner: nobody should wait minutes to hear of a mistyped address."""
    bench.proxy.stop()
    outcome = bench.run(retry_pause=0.001)
    assert isinstance(outcome.error, Unreachable)
    assert len(outcome.notes) == MAX_ATTEMPTS_BEFORE_FIRST_ANSWER - 1


@pytest.mark.parametrize("fault", ["DNS", "TLS"])
def test_names_and_certificates(bench: Bench, fault: str) -> None:
    """Faults of DNS and TLS are tried again too; the latter here from a server that speaks no TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_answer_without_tls, args=(listener,), daemon=True).start()
        url = "https://no-such-project.invalid" if fault == "DNS" else f"https://127.0.0.1:{listener.getsockname()[1]}"
        outcome = run_here(settings_for(url, bench.supabase.service_key, retry_pause=0.001), bench.file)
    assert isinstance(outcome.error, Unreachable)
    assert "the connection failed: " + ("[SSL" if fault == "TLS" else "") in outcome.notes[0]
    assert len(outcome.notes) == MAX_ATTEMPTS_BEFORE_FIRST_ANSWER - 1


def _answer_without_tls(listener: socket.socket) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def _seconds(seconds: int) -> str:
    return str(seconds)


def _date(seconds: int) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds + 1), usegmt=True)


@pytest.mark.parametrize("form", [_seconds, _date])
def test_retry_after_is_kept(bench: Bench, form: Callable[[int], str]) -> None:
    """Both of its forms: a number of seconds, and a date."""
    bench.faults = [lambda exchange: exchange.page(429, {"Retry-After": form(1)})]
    outcome = bench.run(retry_pause=0.001)
    assert outcome.exit_code == 0, outcome.error
    first, second = bench.attempts
    assert 0.95 <= second - first <= 3
    assert "HTTP 429" in outcome.notes[0]


def test_retry_after_beyond_our_patience(bench: Bench) -> None:
    """Nothing is gained by asking earlier."""
    bench.faults = [lambda exchange: exchange.page(429, {"Retry-After": "3600"})]
    outcome = bench.run()
    assert isinstance(outcome.error, Unreachable)
    assert "No answer after 1 attempt. " in outcome.error.message
    assert outcome.error.message.endswith("; it asks to wait for 3,600 s")
    assert len(bench.attempts) == 1


def test_pauses_grow_and_differ(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exponential backoff with jitter and a cap, as it is set outside tests."""
    bench.proxy.choose = lambda request: page(503) if len(bench.proxy.requests) > 1 else None
    told: list[tuple[TransientError, float, int]] = []
    client = RpcClient(
        settings_for(bench.proxy.url, bench.supabase.service_key, retry_pause=0.5, patience=300),
        lambda *fault: told.append(fault),
    )
    monkeypatch.setattr(client_module.time, "sleep", lambda _: None)
    assert client.query("select 1 as one") == [{"one": 1}]
    with pytest.raises(Unreachable):
        client.query("select 1 as one")
    client.close()
    pauses = [pause for _, pause, _ in told]
    longest = [min(MAX_PAUSE, 0.5 * 2**n) for n in range(MAX_ATTEMPTS - 1)]
    assert all(0.5 * most <= pause <= most for pause, most in zip(pauses, longest, strict=True))
    assert len({round(pause / most, 4) for pause, most in zip(pauses, longest, strict=True)}) > 5


HOPELESS = {
    "42P01": "select * from public.nowhere;",
    "42601": "selec 1;",
    "42703": "update public.counter set m = 1 where true;",
    "42501": "alter table auth.users add column mine integer;",
    "23505": "create unique index on public.counter (n); insert into public.counter values (0);",
    "23502": "alter table public.counter alter n set not null; insert into public.counter values (null);",
    "23514": "alter table public.counter add check (n > 0);",
    "22012": "select 1 / n from public.counter;",
    "0A000": "alter table public.counter add check ((select true));",
    "P0001": "do $$ begin raise exception 'no' using detail = 'the detail', hint = 'the hint'; end $$;",
}


@pytest.mark.parametrize("code", HOPELESS)
def test_what_cannot_get_better_stops_at_once(bench: Bench, code: str) -> None:
    """With the step's name, file and line, SQLSTATE, message, detail and hint, and nothing changed."""
    bench.write({STEP: HOPELESS[code]})
    outcome = bench.run()
    assert isinstance(outcome.error, SqlError)
    assert (outcome.exit_code, outcome.error.code) == (1, code)
    assert outcome.error.message.startswith(f'Step "{STEP}" (counting.sql, line 4): ')
    assert (len(bench.attempts), count(bench), outcome.notes) == (1, 0, [])
    if code == "P0001":
        assert outcome.error.hint == "the hint"
        assert str(outcome.error.details).startswith("the detail\n")
    with bench.database.connect() as connection:
        runs = connection.execute("select outcome, message from rpc_migrations.runs").fetchall()
    assert runs == [("failed", outcome.error.message)]


@pytest.mark.parametrize(
    "fault",
    [page(401), page(403), gateway_json(401), gateway_json(403), page(404), gateway_json(404), gateway_code(404)],
)
def test_refusals_of_the_gateway_stop_at_once(bench: Bench, fault: Fault) -> None:
    """A key that was refused is not sent again."""
    bench.faults = [fault]
    outcome = bench.run()
    assert outcome.exit_code == 1
    assert (len(bench.attempts), count(bench), outcome.notes) == (1, 0, [])
    assert outcome.error
    assert outcome.error.hint


GATEWAYS: dict[str, tuple[Fault, list[str]]] = {
    "a step before has dropped it, and PostgREST does not know yet": (
        lambda exchange: exchange.json(
            404,
            {"code": "42883", "message": "function public.execute_sql(query => text) does not exist", "details": None},
        ),
        ["execute_sql is not deployed", "deploy_sql_function.py"],
    ),
    "a firewall that dislikes SQL": (
        page(403),
        ["refused on the way: HTTP 403", "firewall", "/rest/v1/rpc/execute_sql"],
    ),
    "a page to log in at": (page(401), ["refused on the way: HTTP 401", "SUPABASE_URL and the key are right"]),
    "too large": (page(413), [f'"{STEP}" (counting.sql', "too large", "HTTP 413", "client_max_body_size", "-- step:"]),
    "restricted": (
        lambda exchange: exchange.json(402, {"message": "Services restricted: exceed_egress_quota."}),
        ["The project is restricted: Services restricted: exceed_egress_quota. See", "billing"],
    ),
    "paused": (page(540), ["The project is paused.", "Restore it"]),
    "without public": (
        lambda exchange: exchange.json(406, {"code": "PGRST106", "message": "Invalid schema: public", "hint": "api"}),
        ["schema public", "Exposed schemas"],
    ),
    "a secret key that is not made a token of": (
        lambda exchange: exchange.json(401, {"code": "PGRST301", "message": "Expected 3 parts in JWT; got 1"}),
        ["The key was refused: Expected 3 parts in JWT; got 1.", "legacy service_role key"],
    ),
    "no header": (
        lambda exchange: exchange.json(401, {"code": "PGRST302", "message": "Anonymous access is disabled"}),
        ["Anonymous access is disabled", "Authorization header"],
    ),
    "no secret": (
        lambda exchange: exchange.json(500, {"code": "PGRST300", "message": "Server lacks JWT secret"}),
        ["Server lacks JWT secret", "PGRST_JWT_SECRET"],
    ),
}


@pytest.mark.parametrize("postgrest", ["16"])
@pytest.mark.parametrize("name", GATEWAYS)
def test_a_gateway_that_goes_on_refusing_is_told_in_its_words(bench: Bench, name: str) -> None:
    """At once, and not as a wrong address or a mistyped key."""
    fault, words = GATEWAYS[name]
    bench.faults = [fault]
    outcome = bench.run()
    assert (outcome.exit_code, len(bench.attempts), count(bench)) == (1, 1, 0)
    assert outcome.error
    told = f"{outcome.error.message} {outcome.error.hint}"
    assert not [word for word in words if word not in told], told
    assert "YOUR-PROJECT" not in told


@pytest.mark.parametrize("postgrest", ["16"])
def test_clocks_that_differ_for_good(bench: Bench) -> None:
    """Told after a few attempts, before anything was answered; it is not the network."""
    bench.proxy.choose = lambda _: too_early("PGRST303")
    outcome = bench.run(retry_pause=0.001)
    assert isinstance(outcome.error, AccessRefused)
    assert len(outcome.notes) == MAX_ATTEMPTS_BEFORE_FIRST_ANSWER - 1
    assert "JWT issued at future" in outcome.error.message
    assert "clock" in str(outcome.error.hint)


def test_what_the_person_sees(bench: Bench, scripts: Scripts) -> None:
    """The same, by the script itself: retries as they happen, and the error with all that is known of it."""
    bench.write(
        {
            STEP: "do $$ begin if nextval('public.attempts') < 2 then raise exception 'busy' using errcode = '40001'; end if; "
            "raise exception 'three of them' using errcode = '23514', detail = 'Numbers 1, 2, 3.', hint = 'Mend them.'; end $$;"
        }
    )
    env: dict[str, str | None] = {"SUPABASE_URL": bench.proxy.url, "SUPABASE_SERVICE_KEY": bench.supabase.service_key}
    done = scripts("run_migration.py", str(bench.file), env=env)
    assert done.returncode == 1
    said = [line.strip() for line in done.stderr.splitlines()]
    assert said[0].startswith("attempt 1 failed (40001, busy); trying again in 0.")
    assert said[1:4] == [
        f'Error: Step "{STEP}" (counting.sql, line 4): three of them [23514]',
        "Detail: Numbers 1, 2, 3.",
        "PL/pgSQL function inline_code_block line 1 at RAISE",
    ]
    assert said[4].startswith("4 | do $$ begin if nextval('public.attempts') < 2")
    assert said[5:] == ["What to do: Mend them."]
    assert "Traceback" not in done.stdout + done.stderr
    assert bench.supabase.service_key not in done.stdout + done.stderr


def test_a_full_disk_is_not_filled_again(bench: Bench) -> None:
    """Each attempt would fill it, and the application could not write meanwhile."""
    outcome = bench.run({STEP: "do $$ begin raise exception 'no space left' using errcode = '53100'; end $$;"})
    assert isinstance(outcome.error, SqlError)
    assert (outcome.error.code, "the disk is full: no space left" in outcome.error.message) == ("53100", True)
    assert "Make room" in (outcome.error.hint or "")
    assert len(bench.attempts) == 1


@pytest.mark.parametrize(
    ("second", "said"),
    [("return;", "were removed"), ("raise exception 'locked' using errcode = '55P03';", "could not be removed")],
    ids=["removed", "locked"],
)
def test_a_full_disk_tells_whether_the_rows_were_removed(bench: Bench, second: str, said: str) -> None:
    """The second request removes them, and may have to wait like any other."""
    with bench.database.connect() as connection:
        deploy(connection, [("    if not rpc_migrations.give_room_back() then", "    if false then")])
        connection.execute(
            "create function public.fill(out done boolean) language plpgsql as $$ begin done := false; "
            f"if nextval('public.attempts') > 1 then {second} end if; raise exception 'no room' using errcode = '53100'; end $$"
        )
    bench.wait_until_heard_of()
    error = bench.run({f"{STEP} (batch)": "select * from public.fill();"}).error
    assert error is not None
    assert (error.code, f"The rows copied so far {said}" in (error.details or "")) == ("53100", True), error.to_dict()


# --- timeouts of statements ------------------------------------------------------------------------------------------


def _limit(bench: Bench, milliseconds: int) -> None:
    """A shorter limit than the 50 s of execute_sql, which the REST layer applies in the same way."""
    with bench.database.connect() as connection:
        connection.execute(
            f"alter function {SIGNATURE} set statement_timeout = '{milliseconds}ms'; notify pgrst, 'reload schema'"
        )
    query, expected = "select current_setting('statement_timeout') as t", [{"t": f"{milliseconds}ms"}]
    assert wait_until(lambda: rpc(bench.supabase, "execute_sql", query=query).json() == expected)


def test_a_timeout_makes_a_batch_smaller(bench: Bench, admin: psycopg.Connection[Any]) -> None:
    """Until it fits, as the step asks for its size; every row is done once."""
    admin.execute("create table public.work as select generate_series(1, 200) as id")
    bench.file.write_text(
        "-- step: work it off (batch)\n"
        "with gone as (\n"
        "    delete from public.work where id in (select id from public.work order by id limit rpc_migrations.batch_size(200))\n"
        "    returning pg_sleep(0.005)\n"
        "),\n"
        "counted as (update public.counter set n = n + (select count(*) from gone) where true returning 1)\n"
        "select (select count(*) from gone) as rows, (select count(*) from public.work) = (select count(*) from gone) as done\n"
        "from counted\n"
    )
    _limit(bench, 400)
    outcome = bench.run()
    assert outcome.exit_code == 0, outcome.error
    assert count(bench) == 200
    assert outcome.notes
    assert all("going on with smaller ones" in note for note in outcome.notes)
    assert admin.execute("select rows from rpc_migrations.journal").fetchall() == [(200,)]


def test_a_timeout_elsewhere_says_which_and_what_to_do(bench: Bench) -> None:
    """It would be cut again the next time, so it is sent once."""
    bench.write({STEP: "update public.counter set n = n + 1 where pg_sleep(20) is not null;"})
    _limit(bench, 400)
    outcome = bench.run()
    assert isinstance(outcome.error, StatementTimedOut)
    assert outcome.error.code == "57014"
    assert "canceling statement due to statement timeout after 0." in outcome.error.message
    assert f'"{STEP}" (counting.sql, line 4)' in outcome.error.message
    assert "50 s" in str(outcome.error.hint)
    assert "batch step" in str(outcome.error.hint)
    assert (len(bench.attempts), count(bench)) == (1, 0)


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("select true as done, pg_sleep(20);", "rpc_migrations.batch_size(N)"),
        ("select c.done from rpc_migrations.carry_over() as c, pg_sleep(20);", "--write-sql --online"),
    ],
    ids=["one of the file's own", "an index"],
)
def test_a_batch_that_cannot_be_smaller_is_sent_once(bench: Bench, text: str, way: str) -> None:
    """It would be the same one again. The hint is what the person can do: an index cannot be divided."""
    bench.write({f"{STEP} (batch)": text})
    _limit(bench, 400)
    outcome = bench.run()
    assert isinstance(outcome.error, StatementTimedOut)
    assert str(outcome.error.hint).count(way) == 1
    assert ("batch_size" in str(outcome.error.hint)) == ("batch_size" in way)
    assert (len(bench.attempts), outcome.notes) == (1, [])
