"""Command lines: the options of each script, and the command that they ask for. What a command does is in commands/."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from . import commands
from .commands.checks import CLUSTERS
from .console import Console
from .errors import SettingsError
from .file_names import name_of
from .folder import is_folder
from .options import (
    add_copy_options,
    add_migration_options,
    add_rollback_options,
    add_stop_options,
    add_yes_option,
    command_parser,
    path,
    seconds,
)
from .places import command
from .process import run
from .settings import Settings

AFTER_CLUSTERS = [
    f"To check the result: {command('verify_clusters.py')}",
    f"To undo, keeping new writes: {command('rollback_clusters.py')}",
    f"To remove execute_sql: {command('remove_sql_function.py')} (with --keep-journal you can still undo later)",
]


def deploy() -> int:
    """deploy_sql_function.py"""
    parser = command_parser(
        "Deploys the database function execute_sql and what it needs, or brings it up to date. Without credentials it writes the SQL "
        "for the SQL Editor.",
        ["python scripts/deploy_sql_function.py --for 2h", "python scripts/deploy_sql_function.py --via meta"],
    )
    parser.add_argument(
        "--for",
        dest="open_for",
        type=seconds,
        metavar="TIME",
        help="close it after this time (30m, 2h, 7d); a running migration keeps it open (default: open until it is removed)",
    )
    parser.add_argument(
        "--keep-texts",
        action="store_true",
        help="record the whole SQL of every call, secrets included (default: its hash)",
    )
    parser.add_argument(
        "--via",
        choices=("rpc", "meta", "management"),
        help="deploy this way only: through execute_sql itself, postgres-meta or the Management API",
    )
    add_yes_option(parser)
    return run(parser, commands.deploy)


def migrate_clusters() -> int:
    """migrate_clusters.py"""
    parser = command_parser(
        "Rebuilds user_clusters with its four new columns while it is in use, keeps the original as user_clusters_backup, and creates "
        "prompt_refinements. After any failure run it again: it continues where it stopped. Without credentials it writes the SQL for the SQL Editor.",
        [
            "python scripts/migrate_clusters.py --dry-run",
            "python scripts/migrate_clusters.py",
            "python scripts/migrate_clusters.py --status",
        ],
    )
    add_migration_options(parser)
    add_copy_options(parser)
    add_stop_options(parser)
    parser.set_defaults(file=CLUSTERS, next_steps=AFTER_CLUSTERS)
    return run(parser, run_file)


def rollback_clusters() -> int:
    """rollback_clusters.py"""
    parser = command_parser(
        "Puts the original user_clusters back, with what was written since the migration; before the swap it only removes the copy. The "
        "migrated table is kept under another name.",
        ["python scripts/rollback_clusters.py", "python scripts/rollback_clusters.py --discard-changes"],
    )
    add_migration_options(parser)
    add_copy_options(parser)
    add_rollback_options(parser)
    parser.set_defaults(
        file=CLUSTERS, rollback=True, next_steps=[f"To migrate again: {command('migrate_clusters.py')}"]
    )
    return run(parser, run_file)


def finish_clusters() -> int:
    """finish_clusters.py"""
    parser = command_parser(
        "Closes the way back, once you are sure of the migration of user_clusters: verifies it, says what will be lost, asks, and drops "
        "user_clusters_backup and what rollbacks have kept. user_clusters itself is not touched.",
        ["python scripts/finish_clusters.py --dry-run", "python scripts/finish_clusters.py"],
    )
    add_migration_options(parser)
    parser.set_defaults(file=CLUSTERS, finish=True)
    return run(parser, run_file)


def run_migration() -> int:
    """run_migration.py"""
    parser = command_parser(
        "Runs migration files of your own, or rolls one back. In a folder it runs the .sql files that are not applied yet, in the order of their "
        "names, and stops at the first that fails; the same command continues there. What the Supabase CLI or another tool has applied counts as applied.",
        [
            "python scripts/run_migration.py supabase/migrations",
            "python scripts/run_migration.py supabase/migrations --status",
            "python scripts/run_migration.py db/add_order_totals.sql",
            "python scripts/run_migration.py db/add_order_totals.sql --rollback",
        ],
        takes="PATH...",
    )
    parser.add_argument(
        "paths", type=path, nargs="+", metavar="PATH", help="a migration file, a folder of them, or several"
    )
    parser.add_argument(
        "--to", metavar="NAME", help="with a folder: stop after this file (its name, or the digits it begins with)"
    )
    parser.add_argument(
        "--include-all",
        action="store_true",
        help="with a folder: also run files that sort before one that is applied, or that drop and make anew a table that is there",
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help="tell the Supabase CLI's table of applied migrations (supabase_migrations.schema_migrations)",
    )
    parser.add_argument(
        "--accept-edits",
        action="store_true",
        help="record the new text of files edited after they were applied, without running them",
    )
    parser.add_argument(
        "--rollback", action="store_true", help="roll the migration back, and keep what was written since"
    )
    parser.add_argument(
        "--finish",
        action="store_true",
        help="close the way back of a rebuild: drop the original table and what rollbacks have kept",
    )
    add_migration_options(parser)
    add_copy_options(parser)
    add_stop_options(parser)
    add_rollback_options(parser)
    return run(parser, run_files)


def new_migration() -> int:
    """new_migration.py"""
    parser = command_parser(
        "Writes a migration file for you to edit, with the time in its name, as the Supabase CLI does. Needs no credentials; with them, "
        "--rebuild lists what the table has.",
        [
            "python scripts/new_migration.py add_order_status",
            "python scripts/new_migration.py wider_order_ids --rebuild public.orders",
        ],
        takes="NAME",
    )
    parser.add_argument("name", help="what the migration does, in a few words")
    parser.add_argument("--rebuild", metavar="TABLE", help="a file that rebuilds this table while it is in use")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("supabase/migrations"),
        metavar="PATH",
        help="where to write it (default: supabase/migrations)",
    )
    return run(parser, commands.new_migration)


def verify_clusters() -> int:
    """verify_clusters.py"""
    parser = command_parser(
        "Checks that user_clusters and prompt_refinements are as the migration makes them. Changes nothing.",
        ["python scripts/verify_clusters.py", "python scripts/verify_clusters.py --json"],
        success="all checks passed",
        failure="a check failed, or could not be made",
    )
    return run(parser, commands.verify)


def remove() -> int:
    """remove_sql_function.py"""
    parser = command_parser(
        "Removes execute_sql and the private schema. Refuses while a migration is under way. Without credentials it writes the SQL for "
        "the SQL Editor.",
        ["python scripts/remove_sql_function.py", "python scripts/remove_sql_function.py --keep-journal"],
    )
    parser.add_argument("--keep-journal", action="store_true", help="remove only execute_sql, and keep the journal")
    add_yes_option(parser)
    return run(parser, commands.remove)


def doctor() -> int:
    """doctor.py"""
    parser = command_parser(
        "Checks everything that a migration needs: settings, key, network, REST layer, database, execute_sql, and the table to be rebuilt. "
        "Changes nothing.",
        ["python scripts/doctor.py", "python scripts/doctor.py db/rebuild_orders.sql"],
        takes="[FILE]",
        success="nothing is in the way",
        failure="something is in the way",
    )
    parser.add_argument(
        "file",
        type=Path,
        nargs="?",
        default=CLUSTERS,
        metavar="FILE",
        help="a migration file of your own (default: the one that ships)",
    )
    return run(parser, commands.doctor)


def run_files(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Run the command that the options of run_migration.py ask for, on one file or on a folder."""
    options.file = options.paths[0]
    if is_folder(options.paths):
        _refuse_for_a_folder(options)
        looking = commands.status_of_folder if options.status else commands.plan_folder if options.dry_run else None
        return (looking or commands.run_folder)(options, settings, console)
    if options.to is not None or options.include_all:
        raise SettingsError("--to and --include-all need a folder.", hint="Name the folder. Nothing was run.")
    runs = not (options.rollback or options.finish or options.write_sql or options.status or options.dry_run)
    if runs and (options.record or options.accept_edits or _may_be_applied_elsewhere(options.file)):
        return commands.run_folder(options, settings, console)  # which asks what others have applied
    return run_file(options, settings, console)


def _refuse_for_a_folder(options: argparse.Namespace) -> None:
    """Raise SettingsError for options that need one file."""
    if options.until is not None or options.stop_before_swap:
        raise SettingsError("--until and --stop-before-swap need one file.", hint="Name the file. Nothing was run.")
    for name in ("rollback", "finish", "write_sql"):
        if getattr(options, name):
            raise SettingsError(f"--{name.replace('_', '-')} needs one file.", hint="Name the file. Nothing was run.")


def _may_be_applied_elsewhere(file: Path) -> bool:
    """Whether the Supabase CLI, or another tool, may have applied a file of that name."""
    return re.match(r"V?[0-9]", name_of(file)) is not None


def run_file(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Run the command on one migration file that the options ask for."""
    if options.dry_run:
        command = commands.plan
    elif options.write_sql:
        command = commands.write
    elif options.status:
        command = commands.status
    elif options.finish:
        command = commands.finish
    else:
        command = commands.roll_back if options.rollback else commands.run
    return command(options, settings, console)
