"""The whole job on a local Supabase: an old table with sample rows, then the commands that a user runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from local_supabase import Cluster, LocalSupabase, create_old_table

ROOT = Path(__file__).resolve().parents[2]
ROWS = 100_000
COMMANDS = ("deploy_sql_function.py", "migrate_clusters.py", "verify_clusters.py")


def main() -> int:
    """Run the commands; return the first exit code that is not 0."""
    with Cluster() as cluster:
        database = cluster.create_database("demo", default_grants="none")
        with database.connect() as connection, LocalSupabase(database, subprocess=True) as supabase:
            print(
                f"A local Supabase runs at {supabase.url}. Its user_clusters is an old one, with {ROWS:,} rows.",
                flush=True,
            )
            create_old_table(connection, ROWS)
            for script in COMMANDS:
                print(f"\n$ python scripts/{script}", flush=True)
                command = [sys.executable, str(ROOT / "scripts" / script)]
                done = subprocess.run(command, cwd=ROOT, env=os.environ | supabase.environment(), check=False)
                if done.returncode != 0:
                    return done.returncode
            _show_outcome(connection)
    print("The local Supabase is stopped, and nothing is left of it.")
    return 0


def _show_outcome(connection: psycopg.Connection[Any]) -> None:
    """What a look into the database shows."""
    print("\nWhat came of it:")
    for table in ("user_clusters", "user_clusters_backup", "prompt_refinements"):
        rows = connection.execute(sql.SQL("select * from public.{}").format(sql.Identifier(table)))
        print(f"  public.{table:<22} {rows.rowcount:>8,} rows, {len(rows.description or ()):>2} columns")


if __name__ == "__main__":
    sys.exit(main())
