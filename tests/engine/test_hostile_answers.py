"""Answers that mean harm, or mean nothing: control characters never reach the terminal, and odd JSON is not Supabase's."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import run_here, settings_for
from conftest import ROOT, Scripts, script_environment
from faults.proxy import Exchange, FaultProxy
from local_supabase import Cluster, LocalSupabase
from projects import project
from rpc_migrations import commands
from rpc_migrations.console import Console
from rpc_migrations.deployment import current_version
from rpc_migrations.errors import MigrationError
from step_runner import Connection, deploy
from terminal import ANSWERED

# Writes to the clipboard, clears the screen, sets the title (with a C1 control as well), goes back over the line, turns
# the direction of writing.
EVIL = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x1b]0;evil\x07\x9b2J\x9d0;evil\x9c\rError: all is well\x7f\u202egnp.exe\x08"
RAISE = """-- step: raise
do $$ begin raise exception '{evil} message' using detail = '{evil} detail', hint = '{evil} hint'; end $$;
"""
SHOW = "-- step: show\nselect '{evil} message' as message, true as done;\n"


@pytest.fixture
def hostile_file(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a step file with EVIL in it."""

    def write(text: str) -> Path:
        file = tmp_path / "hostile.sql"
        file.write_text(text.replace("{evil}", EVIL), encoding="utf-8", newline="")
        return file

    return write


def on_a_terminal(*arguments: str, env: dict[str, str | None]) -> bytes:
    """What a script writes to a terminal."""
    master, slave = pty.openpty()
    command = [sys.executable, str(ROOT / "scripts" / arguments[0]), *arguments[1:]]
    environment = script_environment({**env, **ANSWERED, "TERM": "xterm-256color"})
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=ROOT)
    os.close(slave)
    written = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # it has ended
            break
        if not part:
            break
        written += part
    process.wait()
    os.close(master)
    return written


@pytest.mark.parametrize("text", [RAISE, SHOW], ids=["an error", "a message"])
def test_control_characters_do_not_reach_a_pipe(
    scripts: Scripts, supabase: LocalSupabase, admin: Connection, hostile_file: Callable[[str], Path], text: str
) -> None:
    deploy(admin)
    file = str(hostile_file(text))
    for options in ((), ("--verbose",), ("--status",), ("--dry-run",)):
        done = scripts("run_migration.py", file, *options, env=supabase.environment())
        shown = done.stdout + done.stderr
        assert not [c for c in shown if c in EVIL and not c.isprintable()], shown
    done = scripts("run_migration.py", file, "--dry-run", "--json", env=supabase.environment())
    assert not [c for c in done.stdout if not c.isprintable() and c != "\n"]
    assert EVIL in json.loads(done.stdout)["steps"][0]["sql"]


@pytest.mark.parametrize("text", [RAISE, SHOW], ids=["an error", "a message"])
def test_control_characters_do_not_reach_a_terminal(
    supabase: LocalSupabase, admin: Connection, hostile_file: Callable[[str], Path], text: str
) -> None:
    """Only those of the list itself do: colours, and moving the cursor over its own lines."""
    deploy(admin)
    shown = on_a_terminal("run_migration.py", str(hostile_file(text)), env=supabase.environment())
    assert b"message" in shown
    for part in ("\x1b]", "\x1b[2J", "\x9b", "\x9d", "\x07", "\x7f", "\u202e", "\x08"):
        assert part.encode() not in shown


def test_what_stands_behind_a_carriage_return_is_shown_as_what_runs(
    scripts: Scripts, hostile_file: Callable[[str], Path]
) -> None:
    """For PostgreSQL it ends a comment; left out, the statement would be shown as part of the comment."""
    done = scripts("run_migration.py", str(hostile_file("-- harmless\rdrop table a;\r\n-- the end\n")), "--dry-run")
    assert "\n-- harmless\ndrop table a;\n-- the end\n" in done.stdout


@pytest.mark.parametrize("name", ["a\n\\! touch pwned\n.sql", "a\r.sql", "a\x1b[2J.sql"])
def test_a_file_whose_name_is_a_command_is_refused(scripts: Scripts, tmp_path: Path, name: str) -> None:
    """In the file that is written, psql would run what stands behind the line break."""
    (tmp_path / name).write_text("-- step: one\nselect 1;\n")
    done = scripts("run_migration.py", str(tmp_path / name), "--write-sql", "--online", cwd=ROOT)
    assert done.returncode == 2
    assert "a line break or another control character in it" in done.stderr
    assert "What to do: Rename the file." in done.stderr
    assert "\x1b" not in done.stderr


def test_a_step_whose_name_has_controls_is_refused(scripts: Scripts, hostile_file: Callable[[str], Path]) -> None:
    done = scripts("run_migration.py", str(hostile_file("-- step: one \x1b[2J\nselect 1;\n")), "--dry-run")
    assert (done.returncode, "What to do: Give the step another name." in done.stderr) == (2, True)


# --- odd JSON

ODD: list[Any] = [
    None, True, 1, -1.5, "x", [], {}, [None], [1], ["x"], [[]], [{}], [[[{}]]], {"state": 7}, {"state": None}, {"state": "done"},
    {"state": "done", "rows": "many", "already": 5}, {"state": "done", "already": True}, {"state": "busy"}, {"state": "busy", "run": 3},
    {"state": "busy", "run": {"client": 5}}, {"state": "busy", "holder": []}, {"state": "waiting"}, {"state": "waiting", "holders": [3]},
    {"state": "waiting", "holders": [{"pid": "x"}]}, {"state": "more", "result": [1]}, {"state": "more", "result": {"progress": "x"}},
    {"state": "conflict"}, {"state": "taken_over", "by": [1]}, {"state": "done", "following": 3}, {"state": "done", "following": [{}]},
    {"state": "done", "following": [{"state": "done", "step": "x", "call_seconds": 1}]}, {"state": "done", "undone": "x"},
    {"state": "\u0000"},
]  # fmt: skip
STATUSES: list[Any] = [
    *ODD[:12], {"steps": 5, "runs": [], "copy": None}, {"steps": [{"step": "one"}], "runs": [], "copy": None},
    {"steps": [], "runs": [{"started_at": "yesterday"}], "copy": None}, {"steps": [], "runs": [], "copy": {"state": 5}},
    {"steps": [], "runs": None, "copy": []},
]  # fmt: skip
RAW = [b"[" * 100_000, b"NaN", b'{"state":', b"\xff\xfe\x00", b"", b'"' + b"x" * 100_000 + b'"', b"1e999", b"-"]


def rows_with(name: str, values: list[Any]) -> list[Any]:
    """A row that has one of these values where ours has one, for each of them."""
    return [[{"version": current_version(), name: value}] for value in values]


# What the requests of a run ask for, in their order: where it stands, to begin, a step, to end.
AT_REQUEST: dict[int, list[Any]] = {
    1: [*ODD[:14], *([{"version": value}] for value in (5, {}, [], None)), *rows_with("value", STATUSES)],
    2: [*ODD[:14], *rows_with("answer", ODD)],
    3: ODD,
    4: [*ODD[:14], *rows_with("status", STATUSES)],
}


@pytest.fixture(scope="module")
def odd(cluster: Cluster) -> Iterator[LocalSupabase]:
    with project(cluster, rows=5) as running:
        yield running


def answer_with(body: bytes) -> Callable[[Exchange], None]:
    """The fault that answers with it."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return lambda exchange: exchange.answer(head + body)


def test_odd_json_is_not_supabases_answer(odd: LocalSupabase, tmp_path: Path) -> None:
    """At each request of a run: it ends in words, or goes on; never with a traceback."""
    numbers = itertools.count()
    wrong: list[Any] = []
    for place, answers in AT_REQUEST.items():
        for body in [*(json.dumps(answer).encode() for answer in answers), *RAW]:
            file = tmp_path / f"odd_{next(numbers)}.sql"
            file.write_text("-- step: one\nselect 1;\n\n-- step: two\nselect 2;\n")
            with FaultProxy(odd.url, lambda r, n=place, b=body: answer_with(b) if r.number == n else None) as proxy:  # type: ignore[misc]
                try:
                    run_here(settings_for(proxy.url, odd.service_key, patience=0.2, request_timeout=5.0), file)
                except Exception as error:
                    wrong.append((place, body[:100], repr(error)[:200]))
    assert wrong == []


@pytest.mark.parametrize("command", ["doctor", "verify", "status", "deploy"])
def test_odd_json_for_the_commands_that_look(odd: LocalSupabase, tmp_path: Path, command: str) -> None:
    file = tmp_path / "odd.sql"
    file.write_text(
        "-- step: one\nselect * from rpc_migrations.begin_copy('public.user_clusters', 'public.user_clusters_backup');\n"
    )
    options = argparse.Namespace(file=file, verbose=True, via=None, open_for=None, keep_texts=False)
    wrong: list[Any] = []
    for place in range(1, {"doctor": 11, "verify": 3, "status": 3, "deploy": 5}[command]):
        bodies = [*(json.dumps(answer).encode() for answer in [*ODD[:14], *rows_with("answer", ODD[:14])]), *RAW]
        for body in bodies[place % 3 :: 3]:  # another third for each request: all for each takes minutes
            with FaultProxy(odd.url, lambda r, n=place, b=body: answer_with(b) if r.number == n else None) as proxy:  # type: ignore[misc]
                settings = settings_for(proxy.url, odd.service_key, patience=0.2, request_timeout=5.0)
                try:
                    getattr(commands, command)(options, settings, Console("test", as_json=True, quiet=True))
                except MigrationError:
                    pass
                except Exception as error:
                    wrong.append((place, body[:100], repr(error)[:200]))
    assert wrong == []


def test_odd_errors_of_the_ways_in(cluster: Cluster, scripts: Scripts) -> None:
    """Their fields may hold anything as well."""
    with project(cluster, rows=None, deployed=False) as running:

        def choose(request: Any) -> Any:
            if not request.path.startswith("/pg/"):
                return None
            return lambda exchange: exchange.json(400, {"message": {"a": 1}, "code": 5, "detail": [], "hint": {}})

        with FaultProxy(running.url, choose) as proxy:
            done = scripts(
                "deploy_sql_function.py", "--via", "meta", env=running.environment() | {"SUPABASE_URL": proxy.url}
            )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "Nothing was changed" in done.stderr
