"""The benchmark runs, and what it measures is there; how fast anything is, no test says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from local_supabase import Cluster

from benchmarks import report
from benchmarks.files import measure_files
from benchmarks.measure import Measurement
from benchmarks.traffic import Seen

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_benchmark_of_a_small_table(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--rows", "1000", "--repetitions", "1", "--no-start", "--files"]
    command += ["--only", "ours", "psql-1", "--json", str(tmp_path / "b.json"), "--plot", str(tmp_path / "b.svg")]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(TESTS)}, check=False
    )
    assert done.returncode == 0, done.stderr
    table = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")]
    assert tuple(table[0]) == report.COLUMNS[1:]
    ours, guide = json.loads((tmp_path / "b.json").read_text())["measurements"]
    assert (ours["contender"], guide["contender"]) == ("ours", "psql-1")
    assert ours["seen"]["lost"] == 0
    assert ours["seen"]["missing_seconds"] == 0
    assert ours["seen"]["failed"] == 0
    assert ours["seen"]["deletions"] > 0
    assert ours["seen"]["deletions_failed"] == 0
    assert len(ours["steps"]) > ours["requests"] > 1
    assert 0 < ours["longest_request"] <= ours["seconds"]
    assert ours["seen"]["statements"] > 0
    assert (tmp_path / "b.svg").read_text().rstrip().endswith("</svg>")


@pytest.mark.slow
def test_memory_that_a_large_file_takes(cluster: Cluster) -> None:
    """A small multiple of the text, not the text once for each statement."""
    (measured,) = measure_files(cluster, ["4,000 inserts"])
    assert 0 < measured.our_memory < 40 * measured.size
    table = report.files_table([measured]).splitlines()
    assert table[-1].startswith("| 4,000 inserts | 0.4 MB | ")


def test_table_tells_what_was_lost() -> None:
    seen = Seen(statements=9, longest_read=2.0, longest_write=0.5, missing_seconds=1.5, lost=3)
    base = Measurement("psql-1", "the guide", 1000, 2.0, [2.0], 3.0, seen)
    deleting = Seen(statements=9, deletions=7, deletions_failed=1, slow_deletions=2, longest_deletion=0.3)
    ours = Measurement("ours", "ours", 1000, 0.5, [0.5], 60.0, deleting, 23, 0.1)
    lines = report.markdown([ours, base]).splitlines()
    assert (
        lines[-2] == "| ours | 500 ms | 0.25 |  | 0 ms | 0 ms | never | 0 | 7 | 1 | 2 | 300 ms | 60 MB | 23 | 100 ms |"
    )
    assert (
        lines[-1] == "| the guide | 2.00 s | 1.00 |  | 2.00 s | 500 ms | 1.50 s | 3 | 0 | 0 | 0 | 0 ms | 3 MB |  |  |"
    )
