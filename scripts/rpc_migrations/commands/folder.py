"""Commands on a folder of migration files, or on several files: apply those that are not applied, or report on them."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from .. import journal
from ..console import Console
from ..errors import MigrationError
from ..folder import (
    APPLIED,
    BEGUN,
    Folder,
    MigrationState,
    is_folder,
    listed,
    look_up,
    read_folder,
    refuse_equal_versions,
    runs,
    stop_after,
)
from ..folder_checks import check
from ..settings import Settings
from .connection import connected, require_credentials
from .migration import remove_when_done, write, write_as_way_out
from .question import before_migrating, warn_of_missing
from .stops import check_stops, up_to

if TYPE_CHECKING:
    from ..client import RpcClient


def run(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Apply the files that are not applied, in the order of their names; stop at the first that fails."""
    is_one_file = not is_folder(options.paths)
    if is_one_file and not settings.has_credentials:
        return write(options, settings, console)
    folder = read_folder(options.paths)
    if is_one_file:
        check_stops(folder.migrations, options.until, before_swap=options.stop_before_swap)
    if options.record:
        refuse_equal_versions(folder)
    require_credentials(settings)
    way_out = write_as_way_out(options, settings, console) if is_one_file else nullcontext()
    with way_out, connected(settings, console) as client:
        from .. import runner

        history = journal.read_history(client)
        files = look_up(folder, history)
        _settle_edits(client, files, console, accept=options.accept_edits)
        wanted = stop_after(_stopped(options, files) if is_one_file else files, options.to)
        check(client, files, wanted, history, include_all=options.include_all or is_one_file)
        chosen = [one for one in wanted if not one.is_applied]
        planned = list(runs(folder, chosen, record=options.record))
        _tell_of_others(folder, console)
        _ask(client, chosen, settings, console)
        if options.record:
            _record_applied(client, files, history, console)
        if not chosen and wanted[-1].migration.stops_before:
            console.already_done(wanted[-1].migration, wanted[-1].status)
        elif not chosen:
            console.nothing_to_do(_all_applied(folder, files))
        for migration in planned:
            if migration.rebuilds or migration.stops_before:
                runner.migrate(client, migration, settings, console, lambda status: warn_of_missing(status, console))
            else:
                runner.run_together(client, migration, settings, console)
        remove_when_done(options, client, console)
    left = [one.migration.title for one in files if not one.is_applied and one not in chosen]
    if left and not is_one_file:
        console.say(f"Not run, because of --to: {', '.join(left)}")
    return 0


def plan(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """List what would be run, and run nothing."""
    folder = read_folder(options.paths)
    require_credentials(settings)
    with connected(settings, console) as client:
        history = journal.read_history(client)
        wanted = stop_after(files := look_up(folder, history), options.to)
        check(client, files, wanted, history, include_all=options.include_all)
    chosen = [one for one in wanted if not one.is_applied]
    _tell_of_others(folder, console)
    console.folder(f"Plan of {folder.name}: nothing is run.", chosen, [], outcome="dry run")
    return 0


def status(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """List all files, and all other migrations of the journal."""
    folder = read_folder(options.paths)
    require_credentials(settings)
    with connected(settings, console) as client:
        history = journal.read_history(client)
    files = look_up(folder, history)
    _tell_of_others(folder, console)
    own = {migration.name for migration in folder.migrations}
    versions = {migration.version for migration in folder.migrations}
    others = [history.summary(name) for name in history.rows if name not in own]
    others += [
        {"migration": version, "state": f"{APPLIED} by {journal.THE_CLI}", "finished_at": None, "client": None}
        for version in sorted(history.by_cli.keys() - versions)
    ]
    console.folder(f"Files of {folder.name}", files, others, outcome="done")
    return 0


def _tell_of_others(folder: Folder, console: Console) -> None:
    """Say which subfolders are not looked at, and which file names may be mistyped."""
    if folder.within:
        console.say(
            f"Not run, because they are in subfolders, which the Supabase CLI skips, too: the .sql files in {listed(folder.within)}"
        )
    if folder.left_out:
        console.say(f"Not run, as the name does not end in .sql: {listed(folder.left_out)}")


def _stopped(options: argparse.Namespace, files: list[MigrationState]) -> list[MigrationState]:
    """The migrations of one file, as far as --until and --stop-before-swap let them run."""
    migrations, statuses = [one.migration for one in files], {one.migration.name: one.status for one in files}
    stopped = up_to(migrations, options.until, before_swap=options.stop_before_swap, statuses=statuses)
    return [replace(one, migration=migration) for one, migration in zip(files, stopped, strict=False)]


def _settle_edits(client: RpcClient, files: list[MigrationState], console: Console, *, accept: bool) -> None:
    """Raise MigrationError if steps that were done have been edited; or with `accept` record their new text."""
    edited = [one for one in files if one.edited]
    if edited and not accept:
        names = ", ".join(f"{step.file}:{step.line}" for one in edited for step in one.edited)
        raise MigrationError(
            f"What was applied has been edited since: {names}.",
            hint="Nothing was run. Put the old text back, and the change into a new file; or, if the edit changes nothing, add --accept-edits.",
        )
    for one in edited:
        journal.accept_edits(client, one.migration, one.edited)
        console.say(f"{one.migration.file}: the edited text is accepted; it was not run.")


def _ask(client: RpcClient, chosen: list[MigrationState], settings: Settings, console: Console) -> None:
    """Raise Declined unless the person agrees, or a migration that was begun is continued."""
    if chosen and not any(one.state == BEGUN for one in chosen):
        before_migrating(client, [one.migration for one in chosen], settings, console)


def _record_applied(client: RpcClient, files: list[MigrationState], history: journal.History, console: Console) -> None:
    """Tell the Supabase CLI's table of files that were applied here without --record."""
    for one in files:
        if one.state == APPLIED and one.migration.is_last and one.migration.version not in history.by_cli:
            journal.record(client, one.migration)
            console.say(f"{one.migration.file}: recorded for the Supabase CLI.")


def _all_applied(folder: Folder, files: list[MigrationState]) -> str:
    if len({one.migration.path for one in files}) == 1:
        return f"{folder.name} is {files[0].state} already."
    left = {one.migration.path for one in files if not one.is_applied}  # a file may be several migrations
    applied = {one.migration.path: one.state.removeprefix(APPLIED) for one in files if one.migration.path not in left}
    tools = list(applied.values())
    by_others = "".join(f", {tools.count(tool)} of them{tool}" for tool in sorted(set(tools)) if tool)
    return f"{folder.name}: {len(applied)} of {len(applied) + len(left)} files are applied{by_others}."
