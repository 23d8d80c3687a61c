"""Commands that deploy and remove execute_sql."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .. import output_files
from ..console import Console
from ..deployment import opening_sql
from ..errors import Absent, NoWayIn
from ..places import from_here
from ..settings import Settings
from ..shapes import Maybe
from .by_hand import lead_through
from .connection import connected, file_as_way_out, say_written, write_instead
from .question import before_removing

if TYPE_CHECKING:
    from ..client import RpcClient


def deploy(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Deploy execute_sql; without credentials, or if no way in is open, write the file."""
    opening = opening_sql(options.open_for, keep_texts=options.keep_texts)

    def write() -> Path:
        return output_files.write_deployment(opening)

    if not settings.has_credentials:
        return write_instead(console, settings, write)
    with file_as_way_out(console, settings, write), connected(settings, console) as client:
        from ..ways_in import deploy as deploy_by_first_open_way

        try:
            deploy_by_first_open_way(client, settings, console, options.via, opening)
        except NoWayIn as reason:
            lead_through(reason, client, settings, console)
            deploy_by_first_open_way(client, settings, console, "rpc", opening)
    return 0


def remove(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Remove execute_sql, and the private schema with it unless the journal is to be kept."""

    def write() -> Path:
        return output_files.write_removal(keep_journal=options.keep_journal)

    if not settings.has_credentials:
        return write_instead(console, settings, write)
    with file_as_way_out(console, settings, write), connected(settings, console) as client:
        from ..deployment import check_deployed, deployed_version, version_number

        try:
            # 0 is the bootstrap, without a journal; an older version cannot tell what only its journal knows.
            if version_number(deployed_version(client)) > 0 and not options.keep_journal:
                check_deployed(client)
                before_removing(client, settings, console)
                _write_putting_back(client, console)
            send_removal(client, keep_journal=options.keep_journal)
        except Absent:
            console.nothing_to_do("execute_sql is not there. Should the schema rpc_migrations be, this removes it:")
            say_written(console, settings, write())
            return 0
    console.say(
        "execute_sql was removed."
        + (" The journal is kept." if options.keep_journal else " The journal and the private schema went with it.")
    )
    return 0


def send_removal(client: RpcClient, *, keep_journal: bool) -> None:
    """Remove execute_sql, which has just answered, and the private schema unless the journal is to be kept."""
    # Absent: an earlier attempt, whose answer was lost, has removed it; or a gateway has sent this twice.
    with suppress(Absent):
        client.query(output_files.removal_sql(keep_journal=keep_journal))


def _write_putting_back(client: RpcClient, console: Console) -> None:
    """Write what only the journal knows: foreign keys and triggers of tables that were moved aside."""
    sql = client.row("select rpc_migrations.putting_back() as sql", {"sql": Maybe(str)})["sql"]
    if sql:
        path = output_files.write_putting_back(sql)
        console.say(f"Written: {from_here(path)}")
        console.say(
            "It puts foreign keys and triggers back on tables that were moved aside; only the journal knew them."
        )
        console.report.files.append(from_here(path))
