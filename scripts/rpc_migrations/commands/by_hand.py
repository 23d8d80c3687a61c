"""The one thing to do by hand where no way to deploy over HTTPS is open: run some lines in the SQL Editor, once."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from ..console import Console
from ..deployment import BOOTSTRAP_FILE
from ..errors import NoWayIn
from ..places import from_here
from ..settings import Settings

if TYPE_CHECKING:
    from ..client import RpcClient

_OTHERWISE = (
    "Or set SUPABASE_ACCESS_TOKEN (one with database read and write for this project is enough), and run the same "
    "command again."
)


def lead_through(reason: NoWayIn, client: RpcClient, settings: Settings, console: Console) -> None:
    """On a terminal, say what to run and wait until it has been run. Elsewhere, or at the end of input, raise `reason` with these
    steps as its hint.
    """
    from ..ways_in import is_open_by_hand

    reason.hint = "\n".join(
        [*_steps(reason.by_hand, settings), "Then run the same command again: it sends the rest.", _OTHERWISE]
    )
    if settings.yes or not console.can_ask:
        raise reason
    lines = ["", reason.message, *_steps(reason.by_hand, settings), _OTHERWISE, ""]
    while console.ask(lines, "Press Enter when it has been run (Ctrl-C to stop):") is not None:
        if is_open_by_hand(client):
            return
        lines = [
            "execute_sql does not answer: this has not been run yet, or not in this project, or it ended with an error."
        ]
    raise reason


def _steps(sql: str, settings: Settings) -> list[str]:
    """What to do, with a link to the SQL Editor if the project is known."""
    is_file = sql.count("\n") > 1
    what = from_here(BOOTSTRAP_FILE) if is_file else sql.rstrip()
    effect = f" ({sql.count(chr(10))} lines), which makes execute_sql for the service key alone" if is_file else ""
    if settings.sql_editor_url is None:
        return [f"Once, in the SQL Editor, run {what}{effect}."]
    return [
        f"Once, open this link to the SQL Editor and press Run. It holds {what}{effect}.",
        f"{settings.sql_editor_url}?content={quote(sql, safe='')}",
    ]
