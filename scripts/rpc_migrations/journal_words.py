"""What the journal says, in words: how far a copy is, who is in the way, who is at work, when, how many."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

MOST_COUNTED = 100_000  # entries of a log that rpc_migrations.log_entries counts


def describe_copy(copy: dict[str, Any] | None, steps: dict[str, dict[str, Any]]) -> list[str]:
    """How far the copy of a table is, one sentence each: what is copied, what waits to be replayed, attempts at the swap."""
    if copy is None or copy["state"] not in ("copying", "copied", "rolling back"):
        return []
    said = []
    if progress := copy.get("progress"):
        seconds = sum(row["seconds"] for row in steps.values() if row["calls"] and row["finished_at"] is None)
        rest = f", about {seconds * (1 - progress) / progress:,.0f} s left of that" if seconds else ""
        said.append(f"Copied: {progress:.0%}{rest}; indexes, replay and comparison come after it.")
    if (entries := copy.get("log_entries")) is not None:
        more = "or more " if entries >= MOST_COUNTED else ""
        said.append(f"Changes to be replayed: {entries:,} {more}({(copy.get('log_bytes') or 0) / 1e6:,.1f} MB).")
    if attempts := copy.get("attempts"):
        longest = f"{1000 * (copy.get('longest_attempt') or 0):,.0f} ms"
        said.append(f"Attempts at the swap so far: {attempts}, the longest of {longest}.")
    return said


def describe_kept(copy: dict[str, Any], finished_at: str | None) -> str:
    """Which table is kept beside the one in use. `finished_at`: when the way back was closed, if it was."""
    if finished_at:
        return f"the way back was closed on {finished_at}"
    if copy["state"] == "abandoned":
        return "the copy was removed"
    if copy["state"] == "rolled back":
        return (
            f"the migrated one is kept as {copy['kept_as']}"
            if copy["kept_as"]
            else "the migrated one was dropped or renamed"
        )
    return f"backup {copy['backup']}" if copy["backup"] else "there was none before: no backup"


def describe_holders(holders: list[dict[str, Any]] | None) -> str:
    """Who may be in the way of a lock."""
    if not holders:
        return "held by a transaction that has ended since"
    return "; ".join(_describe_holder(holder) for holder in holders)


def _describe_holder(holder: dict[str, Any]) -> str:
    state, role = holder.get("state") or "state unknown", f"role {holder.get('role') or 'unknown'}"
    since = f"open for {holder.get('transaction_seconds') or 0} s, on {holder.get('relation')}"
    if holder.get("pid") is None:  # of a prepared transaction, the state says so
        return f"{state} ({role}, {since})"
    return f"pid {holder['pid']} ({state}, {role}, transaction {since})"


def describe_run(run: dict[str, Any]) -> str:
    """A run: by whom, and since when."""
    since, seen = moment(run["started_at"]), moment(run["last_seen_at"])
    return f"{run['client']} (process {run['pid']}), since {since}, last seen {seen}"


def describe_busy(answer: dict[str, Any]) -> str:
    """Who is inside a migration. A run of several files is registered under their folder's name, and by hand there is none."""
    holder = answer.get("holder") or {}
    run = answer.get("run")
    backend = f"; backend {holder['pid']}, {holder.get('state') or 'state unknown'}" if holder.get("pid") else ""
    return (describe_run(run) if run else "a run of several files, the SQL Editor or psql") + backend


def moment(timestamp: str | None) -> str:
    """A timestamp of the database as a person reads it; empty where there is none."""
    return f"{datetime.fromisoformat(timestamp).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if timestamp else ""


def count(number: int, thing: str) -> str:
    """A number of things: 1 row, 2 rows."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
