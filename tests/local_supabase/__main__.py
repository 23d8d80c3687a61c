"""A local Supabase in the foreground, until Ctrl-C: `PYTHONPATH=tests python -m local_supabase`."""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import ExitStack
from types import FrameType

from local_supabase import Cluster, LocalSupabase, create_old_table
from local_supabase.rest import VERSIONS


def main(arguments: list[str] | None = None) -> int:
    """Start it, print what belongs into `.env`, and keep it running."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    with ExitStack() as stack:
        try:
            cluster = stack.enter_context(Cluster())
            database = cluster.create_database("supabase", default_grants=options.default_grants)
            if options.rows is not None:
                with database.connect() as connection:
                    create_old_table(connection, options.rows, options.variant)
            local = stack.enter_context(
                LocalSupabase(database, meta=not options.hosted, postgrest=options.postgrest, port=options.port)
            )
            _report(local)
            signal.pause()
        except KeyboardInterrupt:
            print("# Stopped; nothing is left.", file=sys.stderr)
    return 0


def _report(local: LocalSupabase) -> None:
    print("# A local Supabase is running until Ctrl-C. Lines for .env:")
    for name, value in local.environment().items():
        print(f"{name}={value}")
    print("# Other keys that it takes, in place of the two above:")
    for name, value in (
        ("SUPABASE_SECRET_KEY", local.secret_key),
        ("SUPABASE_PUBLISHABLE_KEY", local.publishable_key),
        ("SUPABASE_ACCESS_TOKEN", local.access_token),
    ):
        print(f"# {name}={value}")
    dsn = local.database.dsn()
    print(f'# Its database: {local.database.cluster.programs}/psql "{dsn}"', flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local_supabase", description="Run a local Supabase until Ctrl-C.")
    parser.add_argument("--rows", type=int, metavar="N", help="make the old user_clusters with N sample rows")
    parser.add_argument("--variant", choices=["full", "minimal", "extra"], default="full", help="of the old table")
    parser.add_argument(
        "--default-grants",
        choices=["all", "none"],
        default="all",
        help="what the API's roles get on new objects in public (none: hosted projects since October 2026)",
    )
    parser.add_argument("--hosted", action="store_true", help="without /pg/query, as on a hosted project")
    parser.add_argument(
        "--postgrest",
        choices=sorted(VERSIONS),
        default="16",
        help="the version that it stands in for (14: most hosted projects; default: 16)",
    )
    parser.add_argument("--port", type=int, default=0, help="of the API (default: a free one)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
