"""`python -m benchmarks`: measure, print the tables, write JSON and, if asked for, a plot."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from local_supabase import Cluster

from benchmarks import report
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.files import FILES, FileMeasurement, measure_files
from benchmarks.measure import Measurement, filled_template, measure, measure_calm, measure_start, server
from benchmarks.plot import plot

SIZES = (1_000, 100_000, 1_000_000)
LARGE = 10_000_000
# At 10,000,000 rows the others would only repeat what psql shows.
WITHOUT_TOOLS = ("ours", "ours-psql", "ours-back", "repack", "psql-1", "psql")


def main() -> int:
    """Measure what the options ask for."""
    options = _options()
    contenders = [one for one in CONTENDERS if one.name in options.only]
    for absent in [one for one in contenders if one.why_not()]:
        _say(f"{absent.title}: skipped, {absent.why_not()}")
        contenders.remove(absent)
    measurements: list[Measurement] = []
    facts: dict[str, Any] = {"machine": _machine()}
    if not options.no_start:
        facts["start"] = measure_start()
    with server() as cluster:
        facts["machine"]["postgresql"] = _version(cluster)
        for rows in options.rows:
            measurements += _measure_size(cluster, contenders, rows, options.repetitions, facts)
        files = _measure_files(cluster, options.files)
    _print(measurements, facts)
    print(report.files_table(files))
    facts["files"] = [one.to_dict() for one in files]
    facts["measurements"] = [one.to_dict() for one in measurements]
    options.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    _say(f"Written: {options.json}")
    if options.plot:
        options.plot.write_text(plot(measurements), encoding="utf-8")
        _say(f"Written: {options.plot}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures the migration over REST beside the guide's SQL by psql, dbmate, yoyo and the Supabase CLI, and pg_repack, on one "
        "PostgreSQL, while two processes write and one reads. Tools that are not on the PATH are skipped. With POSTGREST=/path the "
        "real PostgREST runs in place of the stand-in; with PG_BIN another PostgreSQL.",
    )
    names = [one.name for one in CONTENDERS]
    parser.add_argument("--rows", type=int, nargs="+", metavar="N", help=f"sizes (default: {SIZES})")
    parser.add_argument("--large", action="store_true", help=f"measure {LARGE:,} rows")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"some of {', '.join(names)}")
    parser.add_argument("--repetitions", type=int, metavar="N", help="default: 5 below 10,000 rows, 3, 1 at 10,000,000")
    parser.add_argument("--no-start", action="store_true", help="do not measure how long the command takes to start")
    parser.add_argument(
        "--files",
        nargs="*",
        choices=list(FILES),
        metavar="TITLE",
        help="large migration files (default: all; with --large none)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: benchmark.json in a temporary folder")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw what the application noticed")
    options = parser.parse_args()
    options.rows = options.rows or ([LARGE] if options.large else list(SIZES))
    if options.files is None:
        options.files = [] if options.large else list(FILES)
    options.only = options.only or (WITHOUT_TOOLS if options.large else names)
    options.json = options.json or Path(os.environ.get("TMPDIR", "/tmp")) / "benchmark.json"
    return options


def _measure_size(
    cluster: Cluster, contenders: list[Contender], rows: int, repetitions: int | None, facts: dict[str, Any]
) -> list[Measurement]:
    """Every contender at one size."""
    _say(f"{rows:,} rows: filling the table")
    with filled_template(cluster, rows) as template:
        facts.setdefault("calm", {})[str(rows)] = vars(measure_calm(template))
        measured = measure(template, contenders, rows, repetitions or _repetitions(rows))
    for one in measured:
        _say(f"{rows:,} rows: {one.title}: {report.seconds(one.seconds)}")
    return measured


def _measure_files(cluster: Cluster, titles: list[str]) -> list[FileMeasurement]:
    """Large migration files, both ways."""
    measured = []
    for one in measure_files(cluster, titles):
        measured.append(one)
        _say(f"{one.title}: {one.our_memory:.0f} MB for {one.size:.1f} MB of text")
    return measured


def _repetitions(rows: int) -> int:
    return 5 if rows < 10_000 else 3 if rows < LARGE else 1


def _print(measurements: list[Measurement], facts: dict[str, Any]) -> None:
    """The tables, to standard output."""
    print(report.markdown(measurements))
    print("Times are medians; stalls, missing rows, lost writes and memory are the worst of all repetitions.\n")
    for rows, calm in facts["calm"].items():
        longest = f"{report.seconds(calm['longest_read'])} (read), {report.seconds(calm['longest_write'])} (write)"
        print(f"With nothing being migrated, the longest stall at {int(rows):,} rows was {longest}.")
    for name, value in facts.get("start", {}).items():
        print(f"Start {name}: {report.seconds(value)}")
    print(f"\nMachine: {', '.join(f'{name} {value}' for name, value in facts['machine'].items())}\n")
    ours = [one for one in measurements if one.contender == "ours" and one.steps]
    if ours:
        print(f"### Where the time goes, {ours[-1].rows:,} rows\n")
        print(report.steps_table(ours[-1]))


def _machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cores": os.cpu_count(), "memory": f"{memory:.0f} GB", "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(), "rest": "PostgREST" if os.environ.get("POSTGREST") else "stand-in",
    }  # fmt: skip


def _version(cluster: Cluster) -> str:
    with cluster.connect() as connection:
        return str((connection.execute("show server_version").fetchone() or [""])[0])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
