"""What a person sees on a real terminal, at the widths that people have, and what becomes of a log or a pipe."""

from __future__ import annotations

import ast
import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import Checkout, said
from conftest import ROOT, script_environment
from local_supabase import Cluster, LocalSupabase
from projects import project
from rest_calls import wait_until
from rich.console import Console
from rpc_migrations.console.live import WIDE, step_list
from rpc_migrations.report import RunReport, StepReport
from rpc_migrations.step_file import read_migration
from terminal import ANSWERED, Person, screen

MIGRATE = "migrate_clusters.py"
WAITING = "select count(*) from pg_locks where locktype = 'advisory' and not granted"


@pytest.fixture(scope="module")
def running(cluster: Cluster) -> Iterator[LocalSupabase]:
    """A Supabase with an old table that the first test migrates; the later ones go on from there."""
    with project(cluster) as supabase:
        yield supabase


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_nothing_is_cut(checkout: Checkout, cluster: Cluster, columns: int) -> None:
    with project(cluster) as supabase:
        text = screen(checkout, supabase.environment(), MIGRATE, columns=columns)
    assert "…" not in text, text
    steps = len(read_migration(ROOT / "db" / "migrate_user_clusters.sql").steps)
    assert text.count("✓") == steps, text
    words = re.sub(r"[\s│]+", " ", text)
    for whole in (
        f"{steps} steps, 20 rows, ",
        "public.user_clusters is the new table. The original one is public.user_clusters_backup, closed to the API.",
        "build the index on user_id",
    ):
        assert whole in words, text


def test_a_low_screen_ends_with_the_whole_list_too(checkout: Checkout, cluster: Cluster) -> None:
    with project(cluster) as supabase:
        text = screen(checkout, supabase.environment(), MIGRATE, columns=80, lines=30)
    assert "is applied" in text
    assert text.count("create the new table") == 1, text


def test_the_step_that_failed_has_its_cross(checkout: Checkout, running: LocalSupabase) -> None:
    file = checkout.step_file("fails.sql", "-- step: good\nselect 1;\n\n-- step: bad\nselect 1 / 0;\n")
    text = screen(checkout, running.environment(), "run_migration.py", file, columns=80)
    assert re.search(r"^✗ bad", text, re.MULTILINE), text
    assert "division by zero" in text


def test_the_command_that_continues_is_copied_whole(checkout: Checkout, running: LocalSupabase) -> None:
    """Broken into two lines, the first would be run when it is pasted: without --stop-before-swap, for one."""
    file = checkout.step_file(
        "20260101000000_longer_names_of_people.sql", "-- step: one\nalter table public.t add a int;\n"
    )
    arguments = ("run_migration.py", file, "--patience", "600", "--until", "one")
    with running.database.connect() as setting_up:
        setting_up.execute("create table public.t ()")
    with running.database.connect(autocommit=False) as holder:
        holder.execute("lock table public.t in share mode")
        person = Person(checkout, running.environment() | ANSWERED, *arguments)
        person.sees("lock")
        person.presses("c")
        code, text = person.leaves()
    assert code == 130
    command = f"python {checkout.root}/scripts/{' '.join(arguments)}"
    assert command in "".join(line.ljust(80) for line in text.split("\n")), (
        text
    )  # only the terminal's own edge is in it


def test_what_mends_a_failed_check_is_copied_whole(checkout: Checkout, cluster: Cluster) -> None:
    """In the narrow column of a table a statement was broken within its names, with the lines of the table in between."""
    with project(cluster) as supabase:
        said(checkout.run(MIGRATE, env=supabase.environment()), "is applied")
        with supabase.database.connect() as connection:
            connection.execute("alter table public.user_clusters disable row level security")
        text = screen(checkout, supabase.environment(), "verify_clusters.py")
    statement = "rows: alter table public.user_clusters enable row level security"
    assert statement in "".join(line.ljust(80) for line in text.split("\n")), text


def test_an_ascii_terminal_gets_ascii(checkout: Checkout, running: LocalSupabase) -> None:
    file = checkout.step_file("ascii.sql", "-- step: one\nselect 1;\n")
    env = running.environment() | {"PYTHONIOENCODING": "ascii"}
    text = screen(checkout, env, "run_migration.py", file, columns=80)
    assert re.search(r"^\+ one", text, re.MULTILINE), text
    assert "Traceback" not in text


def test_a_terminal_that_cannot_redraw_gets_a_line_for_each_step(checkout: Checkout, running: LocalSupabase) -> None:
    """In an editor, or for a screen reader: a list that changes in place would show nothing there until the end."""
    file = checkout.step_file("dumb.sql", "-- step: one\nselect 1;\n-- step: two\nselect 2;\n")
    text = screen(checkout, running.environment() | {"TERM": "dumb"}, "run_migration.py", file)
    assert re.search(r"^   1/2  one .*\n   2/2  two ", text, re.MULTILINE), text


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_colours_in_a_log_make_no_terminal_of_it(checkout: Checkout, running: LocalSupabase, name: str) -> None:
    """Workflows set them for all their steps: the list would be in the log again for each eighth of a second."""
    file = checkout.step_file(f"{name}.sql", "-- step: one\nselect 1;\n")
    done = checkout.run("run_migration.py", file, env=running.environment() | {name: "1"})
    said(done, "1/1  one")
    assert not re.search(r"\x1b\[[^m]*[A-Zhl]", done.stdout), done.stdout
    first = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).splitlines()[0]
    assert first.startswith("Project: ") and first.endswith("from SUPABASE_SERVICE_KEY)"), "lines do not break in a log"


def test_a_reader_that_has_gone_stops_nothing(checkout: Checkout, running: LocalSupabase) -> None:
    steps = "".join(f"-- step: step {number}\nselect {number};\n" for number in range(30))
    file = checkout.step_file("long.sql", steps)
    gone, end = os.pipe()
    os.close(gone)
    done = checkout.run(
        "run_migration.py", file, env=running.environment(), stdout=end, stderr=subprocess.PIPE, capture_output=False
    )
    os.close(end)
    assert (done.returncode, done.stderr) == (0, "")
    said(checkout.run("run_migration.py", file, env=running.environment()), "all 30 steps are done")


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("> /dev/full", "Standard output could not be written (No space left on device)"),
        ("--json > /dev/full", "Standard output could not be written (No space left on device)"),
        ("--log /dev/full", "/dev/full could not be written (No space left on device)"),
        ("--json --log /dev/full", "/dev/full could not be written (No space left on device)"),
        ("> /dev/full 2>&1", None),
        ("2> /dev/full", None),
        (">&-", None),
        ("2>&-", None),
        ("--json >&-", None),
        ("<&- >&- 2>&-", None),
    ],
)
def test_what_cannot_be_written_stops_nothing(
    checkout: Checkout, running: LocalSupabase, tmp_path: Path, where: str, told: str | None
) -> None:
    """A disk that is full, a stream that somebody has closed: the steps go on, and at the end it is told where it can be."""
    file = tmp_path / f"to{re.sub(r'[^a-z0-9]+', '_', where)}.sql"
    file.write_text("".join(f"-- step: step {number}\nselect {number};\n" for number in range(5)))
    command = f"{sys.executable} {checkout.root}/scripts/run_migration.py {file} {where}"
    environment = script_environment(running.environment())
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
    said(done, *([told] if told else []))
    said(checkout.run("run_migration.py", file, env=running.environment()), "all 5 steps are done")


def test_a_terminal_that_has_gone_stops_nothing(checkout: Checkout, running: LocalSupabase, tmp_path: Path) -> None:
    """Where the signal for it is ignored, as after `disown` or under nohup: what a night's ssh connection leaves."""
    file = tmp_path / "gone.sql"
    file.write_text("-- step: one\nselect pg_advisory_xact_lock(4711);\n\n-- step: two\nselect 2;\n")
    ours, theirs = pty.openpty()
    ignoring = ["sh", "-c", 'trap "" HUP; exec "$0" "$@"']
    command = [*ignoring, sys.executable, str(checkout.root / "scripts" / "run_migration.py"), str(file)]
    with running.database.connect() as connection:
        connection.execute("select pg_advisory_lock(4711)")
        process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, cwd=tmp_path,
            env=script_environment({**running.environment(), **ANSWERED, "TERM": "xterm-256color"}),
        )  # fmt: skip
        os.close(theirs)
        with connection.cursor() as cursor:
            assert wait_until(lambda: cursor.execute(WAITING).fetchone() == (1,))
        os.close(ours)
    assert process.wait(60) == 0
    said(checkout.run("run_migration.py", file, env=running.environment()), "all 2 steps are done")


def test_a_log_has_everything_with_the_time(checkout: Checkout, running: LocalSupabase) -> None:
    file, log = checkout.step_file("logged.sql", "-- step: one\nselect 1;\n"), checkout.root / "night.log"
    for _ in range(2):
        said(checkout.run("run_migration.py", file, "--quiet", "--log", str(log), env=running.environment()))
    text = log.read_text()
    assert '"one" begins' in text
    assert "logged is applied: 1 step" in text
    assert "Nothing to do." in text, "appended"
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", line) for line in text.splitlines()), text
    done = checkout.run("run_migration.py", file, "--log", "/nowhere/x.log", env=running.environment())
    said(done, "/nowhere/x.log cannot be written", code=2)


def test_the_version(checkout: Checkout) -> None:
    said(checkout.run(MIGRATE, "--version"), "migrate_clusters.py: rpc_migrations ")


def test_an_old_python_can_read_what_says_that_it_is_too_old() -> None:
    for path in [*(ROOT / "scripts").glob("*.py"), ROOT / "scripts" / "rpc_migrations" / "__init__.py"]:
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 7))


def test_an_old_python_is_told_a_way_that_leads_on(checkout: Checkout) -> None:
    """Where the environment is of the old Python itself, running it again would say the same for ever."""
    old = "import runpy, sys; sys.version_info = (3, 10, 12); runpy.run_path('scripts/rpc_migrations/__init__.py')"

    def told(*options: str) -> str:
        command = [sys.executable, *options, "-c", old]
        return subprocess.run(command, cwd=checkout.root, capture_output=True, text=True, check=False).stderr

    assert "runs on 3.10. With a newer one, make the environment anew" in told()
    (checkout.root / ".venv").symlink_to(sys.prefix)
    assert "python3.12 -m venv --clear .venv && " in told()
    assert "runs on 3.10. Run: .venv/bin/python scripts/" in told("-S")  # outside of it


def test_ctrl_c_while_the_modules_are_read_is_no_traceback() -> None:
    code = "import rpc_migrations; raise KeyboardInterrupt"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "scripts", capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (-2, "Interrupted.\n")


@pytest.mark.parametrize("columns", [60, 80, 100, 120])
def test_a_long_name_in_a_message_is_whole(columns: int) -> None:
    kept = "public.user_clusters_rolled_back_20261128144007"
    step = StepReport(
        "roll back: swap the tables back without the changes", batch=True, state="done", message=f"kept as {kept}"
    )
    screen = io.StringIO()
    Console(file=screen, width=columns).print(
        step_list(RunReport("m", "roll back", {step.name: step}), [step], wide=columns >= WIDE)
    )
    assert kept in re.sub(r"\s+", "", screen.getvalue()).replace("keptas", "kept as "), screen.getvalue()
