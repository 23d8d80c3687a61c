"""`make demo`: an application writes all the while, nothing is lost, and nothing is left behind, also after Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from conftest import ROOT


def start_demo(data: Path) -> subprocess.Popen[str]:
    """As `make demo` does, in a process group of its own as a terminal has it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "LOCAL_SUPABASE_DATA": str(data)}
    return subprocess.Popen(
        [sys.executable, "-m", "local_supabase.demo"], cwd=ROOT, env=environment, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture
def data() -> Iterator[Path]:
    """Where the demo's server keeps its data. Not below pytest's own folder, where the server's user may not go."""
    with TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.mark.slow
def test_writes_survive_the_migration_and_the_way_back(data: Path) -> None:
    demo = start_demo(data)
    output, errors = demo.communicate()
    assert demo.returncode == 0, errors
    reports = re.findall(r"the application made ([\d,]+) writes:\n(\d+) refused, (\d+) lost;", output)
    assert [(refused, lost) for _, refused, lost in reports] == [("0", "0"), ("0", "0")]
    made = sum(int(writes.replace(",", "")) for writes, _, _ in reports)
    assert made > 0
    assert f"with all {made:,} writes" in output
    assert "21 passed, 0 failed" in output
    assert list(data.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "moment"), [(signal.SIGTERM, "A local Supabase runs"), (signal.SIGINT, "begin the copy")]
)
def test_interrupted_it_says_so_and_leaves_nothing(data: Path, number: signal.Signals, moment: str) -> None:
    """Ctrl-C reaches every process of the terminal, a signal to end the demo alone."""
    demo = start_demo(data)
    assert demo.stdout is not None
    assert any(moment in line for line in demo.stdout), demo.communicate()
    if number == signal.SIGINT:
        os.killpg(demo.pid, number)
    else:
        demo.send_signal(number)
    _, errors = demo.communicate()
    assert demo.returncode == 130, errors
    assert "Traceback" not in errors
    assert errors.endswith("\nInterrupted. The local Supabase is stopped, and nothing is left of it.\n")
    assert list(data.iterdir()) == []
