"""Questions to a person on a terminal before anything is changed: which project, what, how much. Elsewhere nothing is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..console import Console
from ..errors import Declined, StatementTimedOut
from ..journal import Status
from ..journal_words import count
from ..migration import Migration
from ..rebuilt_table import RebuiltTable, read_table
from ..settings import Settings
from ..shapes import Maybe

if TYPE_CHECKING:
    from ..client import RpcClient

MOST_LINES = 20  # of files

# The rows that differ between the table in use and the original, as a rollback with --discard-changes counts them.
_DISCARDED_QUERY = """
select d.rows
from (select c from rpc_migrations.copies as c where c.id = {id} and c.state = 'swapped' and c.old_table is not null) as r (copy)
cross join lateral rpc_migrations.count_discarded(r.copy) as d
"""
# What somebody has altered about the table in use, and a rollback will leave behind.
_ALTERED_QUERY = """
select
    format('%I.%I', c.schema_name, c.table_name) as "table", format('%I.%I', c.schema_name, c.backup_name) as backup,
    rpc_migrations.altered_since(c) as altered
from rpc_migrations.copies as c
where
    c.id = {id} and c.state in ('swapped', 'rolling back') and c.old_table is not null
    and to_regclass(rpc_migrations.name_in_use(c)) = c.new_table
"""
_WAYS_BACK_QUERY = """
select string_agg(distinct format('%I.%I', c.schema_name, c.table_name), ', ') as tables
from rpc_migrations.copies as c
where c.state = 'swapped'
"""


def before_migrating(client: RpcClient, migrations: Sequence[Migration], settings: Settings, console: Console) -> bool:
    """Say what is about to be done. Raises Declined unless the person agrees. Returns whether somebody was asked."""
    if not _asks(settings, console):
        return False
    if len(migrations) == 1:
        lines = _about(client, migrations[0])
    else:
        lines = [_in_a_line(client, one) for one in migrations[:MOST_LINES]]
    if len(migrations) > MOST_LINES:
        lines.append(f"... and {len(migrations) - MOST_LINES} more")
    _confirm(console, lines, f"Migrate {settings.place}?")
    return True


def warn_of_missing(status: Status, console: Console) -> None:
    """Warn where there is no table to rebuild."""
    if status.missing:
        console.warn(
            f"{status.missing} is not there, and will be made empty. If it should be there, this is the wrong project."
        )


def before_rolling_back(
    client: RpcClient, status: Status, settings: Settings, console: Console, *, discards: bool
) -> None:
    """Ask before a rollback that leaves something behind: the changes of the data, if it `discards` them, or what somebody has altered
    about the table since its migration. Raises Declined unless the person agrees. The latter is told also where nobody is asked, as when
    a rollback goes on.
    """
    copy = status.copy
    if copy is None or copy["state"] not in ("swapped", "rolling back"):
        return
    altered = _altered_since(client, copy)
    asks = _asks(settings, console) and copy["state"] == "swapped"
    if asks and discards:
        _ask_before_discarding(client, copy, altered, settings, console)
    elif asks and altered:
        _confirm(console, [altered], f"Roll back without it in {settings.place}?")
    elif altered:
        console.warn(altered)


def _altered_since(client: RpcClient, copy: dict[str, Any]) -> str | None:
    """What a rollback leaves behind of how the table looks, and how to keep it. None: nothing."""
    shape = {"table": str, "backup": str, "altered": Maybe(str)}
    rows = client.rows(_ALTERED_QUERY.format(id=int(copy["id"])), shape)
    if not rows or not rows[0]["altered"]:
        return None
    found = rows[0]
    return (
        f"{found['table']} was altered since its migration: {found['altered']}. The original table comes back without that; the table that "
        f"is kept has it. To have it in the original as well, alter {found['backup']} in the same way before, and grant rights again afterwards."
    )


def _ask_before_discarding(
    client: RpcClient, copy: dict[str, Any], altered: str | None, settings: Settings, console: Console
) -> None:
    try:
        found = client.rows(_DISCARDED_QUERY.format(id=int(copy["id"])), {"rows": Maybe(int)})
        number = count(found[0]["rows"], "change") if found and found[0]["rows"] is not None else "changes"
    except StatementTimedOut:
        number = "changes (too many to count)"
    lines = [
        f"{copy['table']} gets back the data that it had at the swap.",
        f"{number} made since (rows added, changed or deleted) will only be in the table that is kept.",
        *([altered] if altered else []),
    ]
    _confirm(console, lines, f"Discard these changes in {settings.place}?")


def before_finishing(migration: Migration, dropped: list[str], settings: Settings, console: Console) -> None:
    """Say what is lost when the way back is closed, also where nobody is asked. Raises Declined unless the person agrees."""
    lines = [f"Will be dropped: {line}" for line in dropped] or ["There is no table to drop."]
    lines.append(f"After that nothing can roll {migration.name} back.")
    if _asks(settings, console):
        _confirm(console, lines, f"Close the way back in {settings.place}?")
        return
    for line in lines:
        console.say(line)


def before_removing(client: RpcClient, settings: Settings, console: Console) -> None:
    """Ask before the journal is removed, and with it the way back. Raises Declined unless the person agrees."""
    if not _asks(settings, console):
        return
    tables = client.rows(_WAYS_BACK_QUERY, {"tables": Maybe(str)})[0]["tables"]
    lines = ["This removes execute_sql, and the journal of all migrations."]
    if tables:
        lines.append(f"After that no script can roll back: {tables}. To keep that possible: --keep-journal.")
    _confirm(console, lines, f"Remove them from {settings.place}?")


def _asks(settings: Settings, console: Console) -> bool:
    return console.can_ask and not settings.yes


def _confirm(console: Console, lines: list[str], question: str) -> None:
    answer = console.ask(["", *lines], f"{question} [y/N]")
    if answer is None or answer.lower() not in ("y", "yes"):
        raise Declined("Nothing was changed.", hint="To go ahead, answer y; or give --yes.")


def _about(client: RpcClient, migration: Migration) -> list[str]:
    """What a migration is about to do, in some lines."""
    table = read_table(client, migration)
    if table is None:
        return [f"{migration.file}: {count(len(migration.steps), 'step')}"]
    return _about_table(table)


def _in_a_line(client: RpcClient, migration: Migration) -> str:
    """What a migration among several is about to do, in one line."""
    table = read_table(client, migration)
    if table is None:
        return f"{migration.file}: {count(len(migration.steps), 'step')}"
    size = f" ({table.rows_in_words}, {table.size})" if table.is_there else ", which is not there yet"
    return f"{migration.title}: rebuilds {table.name}{size}"


def _about_table(table: RebuiltTable) -> list[str]:
    if not table.is_there:
        outcome = "There is nothing to rebuild." if table.must_be_there else "It would be made, empty."
        return [f"{table.name} is not there. Is this the right project? {outcome}"]
    lines = [
        f"Table:         {table.name}, {table.rows_in_words}, {table.size}",
        f"Carried over:  {table.carried_by_number}",
        f"Time:          {table.seconds_in_words}; the application goes on meanwhile",
    ]
    return [*lines, f"The original:  kept as {table.backup}"] if table.backup else lines
