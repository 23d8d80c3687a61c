"""Each fault that a request may meet: what happens to the exchange, and whether the client dies of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException

import psycopg

from faults.harness import Disturbed
from faults.proxy import Exchange

SMALL_TIMEOUT = 0.4  # seconds; the client's, where the request hangs
_GRACE = 0.25  # seconds that an orphan goes on in the database


@dataclass(frozen=True)
class Fault:
    """A fault by name. `kills`: it kills the client, which therefore is a process; `request_timeout`: the client's;
    `leaves_doubt`: it stands for those after which it is open what was done, and is tried where steps share a request too;
    `depends_on_version`: it is tried on each PostgREST.
    """

    name: str
    strike: Callable[[Exchange, Disturbed], None]
    kills: bool = False
    request_timeout: float = 30.0
    leaves_doubt: bool = False
    depends_on_version: bool = False


def refused(exchange: Exchange, run: Disturbed) -> None:
    """The connection is reset before the request has been sent on."""
    exchange.reset()


def answer_dropped(exchange: Exchange, run: Disturbed) -> None:
    """The connection is closed without an answer, after the commit."""
    exchange.forward()
    exchange.close()


def page_503(exchange: Exchange, run: Disturbed) -> None:
    """A gateway's page; nothing was sent on."""
    exchange.page(503)


def page_504(exchange: Exchange, run: Disturbed) -> None:
    """A gateway's page; nothing was sent on."""
    exchange.page(504)


def page_504_while_it_runs(exchange: Exchange, run: Disturbed) -> None:
    """A gateway has given up, and the database goes on: what it does ends while the client tries again."""

    def go_on() -> None:
        with run.held(at_commit=True) as wait_until_held:
            run.proxy.in_background(exchange.forward)
            wait_until_held()
            exchange.page(504)
            time.sleep(_GRACE)

    if _is_read(exchange):
        exchange.forward()
        exchange.page(504)
    else:
        go_on()


def answer_cut(exchange: Exchange, run: Disturbed) -> None:
    """The connection breaks in the middle of the answer."""
    answer = exchange.forward()
    body = answer.index(b"\r\n\r\n") + 4
    exchange.answer(answer[: body + (len(answer) - body) // 2])
    exchange.close()


def hang(exchange: Exchange, run: Disturbed) -> None:
    """No answer comes, though all is done."""
    exchange.forward()
    exchange.hang()


def killed_before(exchange: Exchange, run: Disturbed) -> None:
    """kill -9 of the client before the request is on its way."""
    _kill(run)


def killed_while_it_runs(exchange: Exchange, run: Disturbed) -> None:
    """kill -9 of the client while the database works; which it goes on to do when the command is run again."""
    if _is_read(exchange):
        _kill(run)
        exchange.forward()
        return
    with run.held(at_commit=True) as wait_until_held:
        run.proxy.in_background(exchange.forward)
        wait_until_held()
        _kill(run)
        time.sleep(_GRACE)


def killed_after(exchange: Exchange, run: Disturbed) -> None:
    """kill -9 of the client when everything is done and it does not know."""
    exchange.forward()
    _kill(run)


def backend_terminated_at_its_start(exchange: Exchange, run: Disturbed) -> None:
    """The session that runs the request is terminated before it has done anything."""
    _terminate(exchange, run, at_commit=False)


def backend_terminated_at_its_end(exchange: Exchange, run: Disturbed) -> None:
    """The session that runs the request is terminated when all is done, just before the commit."""
    _terminate(exchange, run, at_commit=not _is_read(exchange))


def restart_before(exchange: Exchange, run: Disturbed) -> None:
    """The database crashes and comes back before the request is sent on."""
    run.database.cluster.restart("immediate")
    exchange.pass_on()


def restart_while_it_runs(exchange: Exchange, run: Disturbed) -> None:
    """The database crashes when all is done, just before the commit."""
    try:
        with run.held(at_commit=not _is_read(exchange)) as wait_until_held:
            run.proxy.in_background(lambda: _pass_on_what_comes(exchange))
            wait_until_held()
            run.database.cluster.restart("immediate")
    except psycopg.OperationalError:
        pass  # the sessions that held and watched died with it
    run.proxy.wait(5)


def restart_after(exchange: Exchange, run: Disturbed) -> None:
    """The database crashes after the commit, and the answer is lost."""
    exchange.forward()
    run.database.cluster.restart("immediate")
    exchange.close()


def too_many_requests(exchange: Exchange, run: Disturbed) -> None:
    """A gateway asks for a pause."""
    exchange.page(429, {"Retry-After": "0.05"})


# On the version of PostgREST depends what comes of a request that nobody waits for any more, which 14 repeats where it fails
# on account of another one; and what is answered after a crash of the database, which is the same for each of the three. All
# other faults strike where PostgREST is not, or where both versions answer the same.
FAULTS = (
    Fault("refused", refused),
    Fault("answer dropped", answer_dropped, leaves_doubt=True),
    Fault("503", page_503),
    Fault("504", page_504),
    Fault("504 while it runs", page_504_while_it_runs, leaves_doubt=True, depends_on_version=True),
    Fault("answer cut", answer_cut),
    Fault("hang", hang, request_timeout=SMALL_TIMEOUT),
    Fault("429", too_many_requests),
    Fault("killed before", killed_before, kills=True),
    Fault("killed while it runs", killed_while_it_runs, kills=True, leaves_doubt=True, depends_on_version=True),
    Fault("killed after", killed_after, kills=True, leaves_doubt=True),
    Fault("backend terminated at its start", backend_terminated_at_its_start),
    Fault("backend terminated at its end", backend_terminated_at_its_end, leaves_doubt=True),
    Fault("restart before", restart_before),
    Fault("restart while it runs", restart_while_it_runs, leaves_doubt=True, depends_on_version=True),
    Fault("restart after", restart_after),
)
IN_DOUBT = tuple(fault for fault in FAULTS if fault.leaves_doubt)


def _is_read(exchange: Exchange) -> bool:
    """Whether the request writes nothing: it has no commit to be held at."""
    query = exchange.request.query
    return exchange.request.step is None and "start_run" not in query and "end_run" not in query


def _kill(run: Disturbed) -> None:
    assert run.process is not None
    run.process.kill()
    run.process.wait()


def _terminate(exchange: Exchange, run: Disturbed, *, at_commit: bool) -> None:
    with run.held(at_commit=at_commit) as wait_until_held, run.database.connect("supabase_admin") as connection:
        run.proxy.in_background(lambda: _pass_on_what_comes(exchange))
        for pid in wait_until_held():
            connection.execute("select pg_terminate_backend(%s, 5000)", [pid])
    run.proxy.wait(5)


def _pass_on_what_comes(exchange: Exchange) -> None:
    try:
        exchange.pass_on()
    except (OSError, HTTPException):
        exchange.close()
