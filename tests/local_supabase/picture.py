"""Makes .github/migration.svg, the picture in README: `PYTHONPATH=tests:scripts python -m local_supabase.picture`."""

from __future__ import annotations

import io
import os
from argparse import Namespace
from pathlib import Path

from rich.console import Console as RichConsole
from rich.text import Text
from rpc_migrations import commands
from rpc_migrations.cli import AFTER_CLUSTERS
from rpc_migrations.console import Console
from rpc_migrations.console.live import closing_panel, step_list
from rpc_migrations.report import RunReport
from rpc_migrations.settings import load_settings

from local_supabase import Cluster, LocalSupabase, create_old_table

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 88  # columns: as wide as README is shown, the letters are as large as its own
MIGRATE = Namespace(
    file=ROOT / "db" / "migrate_user_clusters.sql",
    rollback=False,
    finish=False,
    discard_changes=False,
    give_up=False,
    remove_when_done=False,
    dry_run=False,
    status=False,
    write_sql=False,
    online=False,
    until=None,
    stop_before_swap=False,
)


def main() -> None:
    """Migrate 1,000,000 rows and keep what a terminal shows at the end."""
    with Cluster() as cluster:
        database = cluster.create_database("picture")
        with database.connect() as connection:
            create_old_table(connection, 1_000_000)
        with LocalSupabase(database, subprocess=True) as supabase:
            os.environ.update(supabase.environment(), MIGRATION_YES="1")
            commands.deploy(
                Namespace(via=None, open_for=None, keep_texts=False),
                load_settings(),
                Console("deploy_sql_function.py", quiet=True),
            )
            console = Console("migrate_clusters.py", quiet=True)
            console.next_steps = AFTER_CLUSTERS
            commands.run(MIGRATE, load_settings(), console)
    picture = RichConsole(record=True, width=WIDTH, file=io.StringIO())
    picture.print(Text("$ python scripts/migrate_clusters.py", "bold"))
    assert isinstance(console.report.result, RunReport)
    run = console.report.result
    picture.print(step_list(run, list(run.steps.values()), wide=False))
    picture.print(closing_panel(console.report.lines[2:]))
    picture.save_svg(str(ROOT / ".github" / "migration.svg"), title="migrate_clusters.py")


if __name__ == "__main__":
    main()
