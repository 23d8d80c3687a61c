"""Since when execute_sql is open and until when, and its last calls: as the database has them, and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .journal_words import moment
from .shapes import ACCESS, CALLS

if TYPE_CHECKING:
    from .client import RpcClient

LAST_CALLS = 20

_ACCESS_QUERY = """
select t.opened_at, t.open_until, a.keep_texts
from rpc_migrations.access_times() as t
cross join rpc_migrations.access as a
"""


def read_access(client: RpcClient) -> dict[str, Any]:
    """Since when execute_sql is open ("opened_at"), until when ("open_until", None: until it is removed), and whether the
    record keeps whole texts ("keep_texts").
    """
    return client.row(_ACCESS_QUERY, ACCESS)


def read_calls(client: RpcClient, number: int = LAST_CALLS) -> dict[str, Any]:
    """The last "calls" that changed something, the newest first, and how many there are in all ("total")."""
    sql = f"select rpc_migrations.last_calls({number:d}) as answer"
    answer: dict[str, Any] = client.row(sql, {"answer": CALLS})["answer"]
    return answer


def describe_access(access: dict[str, Any]) -> str:
    """Until when it is open, and what follows from it."""
    if access["open_until"]:
        return f"It is open until {moment(access['open_until'])}, and longer while a migration runs; then it refuses everyone."
    return "It is open until you remove it (remove_sql_function.py); deployed with --for 2h it closes by itself."


def describe_caller(call: dict[str, Any]) -> str:
    """Who called: the role, the user of the key where it names one, and the address."""
    user = f", sub {call['sub']}" if call["sub"] else ""
    place = f" from {call['forwarded_for']}" if call["forwarded_for"] else ""
    return f"{call['role']}{user}{place}"


def describe_text(call: dict[str, Any]) -> str:
    """What was called: the step, or the kinds of statement in SQL that is no step."""
    if call["step"]:
        return f'{call["migration"]}: "{call["step"]}"'
    return ", ".join(call["kinds"] or ["nothing"])
