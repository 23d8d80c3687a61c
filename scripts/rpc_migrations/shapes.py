"""The shapes of answers, checked before anything is read from them: whoever answers may not be Supabase."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .errors import NotSupabase
from .other_histories import TOOLS


@dataclass(frozen=True)
class Maybe:
    """Null, or of that shape; in an object it may be absent."""

    shape: Any


class Moment:
    """A timestamp as PostgreSQL writes it in JSON."""


def expect(value: Any, shape: Any) -> Any:
    """Return the value if it has the shape: a type; [shape] for a list; {name: shape} for an object with at least these fields;
    Maybe(shape); Moment. Raises NotSupabase if it has not.
    """
    if not _fits(value, shape):
        raise not_supabase()
    return value


def not_supabase() -> NotSupabase:
    """Something else answers at the address in SUPABASE_URL."""
    return NotSupabase(
        "The address in SUPABASE_URL answers, but not as Supabase does.",
        hint="Set SUPABASE_URL to the project's URL, https://YOUR-PROJECT.supabase.co (Project Settings, Data API).",
    )


def _fits(value: Any, shape: Any) -> bool:
    match shape:
        case Maybe():
            return value is None or _fits(value, shape.shape)
        case list():
            return isinstance(value, list) and all(_fits(item, shape[0]) for item in value)
        case dict():
            return isinstance(value, dict) and all(_fits(value.get(name), part) for name, part in shape.items())
        case _ if shape is Moment:
            return isinstance(value, str) and _is_moment(value)
        case _:
            return isinstance(value, (int, float) if shape is float else shape) and (
                isinstance(value, bool) == (shape is bool)
            )


def _is_moment(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


RUN = {
    "id": str, "client": str, "pid": Maybe(int), "action": str, "started_at": Moment, "last_seen_at": Moment,
    "outcome": Maybe(str), "message": Maybe(str),
}  # fmt: skip
BUSY = {"run": Maybe(RUN), "holder": Maybe({"pid": Maybe(int), "state": Maybe(str)})}
STARTED = {"state": str, **BUSY}
HOLDER = {
    "pid": Maybe(int), "state": Maybe(str), "role": Maybe(str), "transaction_seconds": Maybe(float), "relation": Maybe(str),
}  # fmt: skip
_ANSWER = {
    "state": str, "already": Maybe(bool), "rows": Maybe(int), "holders": Maybe([HOLDER]), "by": Maybe(RUN), **BUSY,
    "undone": Maybe({"step": str, "message": str}), "code": Maybe(str), "message": Maybe(str), "details": Maybe(str),
    "step": Maybe(str),
}  # fmt: skip
_FURTHER = {**_ANSWER, "step": str, "call_seconds": float}
ANSWER = {**_ANSWER, "following": Maybe([_FURTHER])}
_COPY = {
    "id": int, "table": str, "state": str, "backup": Maybe(str), "restored": Maybe(bool), "kept_as": Maybe(str), "unvalidated": list,
    "finished_at": Maybe(Moment),
    "attempts": Maybe(int), "longest_attempt": Maybe(float), "progress": Maybe(float), "log_entries": Maybe(int), "log_bytes": Maybe(int),
}  # fmt: skip
STATUS = {
    "steps": [{
        "step": str, "checksum": str, "calls": int, "rows": int, "seconds": float, "started_at": Moment, "finished_at": Maybe(Moment),
    }],
    "runs": [RUN],
    "is_there": Maybe(bool),
    "copy": Maybe(_COPY),
}  # fmt: skip
ACCESS = {"opened_at": Moment, "open_until": Maybe(Moment), "keep_texts": bool}
CALLS = {
    "calls": [{
        "called_at": Moment, "role": str, "sub": Maybe(str), "forwarded_for": Maybe(str), "migration": Maybe(str), "step": Maybe(str),
        "kinds": Maybe([str]), "outcome": str, "rows": Maybe(int), "sha256": str,
    }],
    "total": int,
}  # fmt: skip
CHECK = {"check": str, "passed": bool, "detail": Maybe(str)}
HISTORY = {
    "steps": [{
        "migration": str, "step": str, "checksum": str, "calls": int, "finished_at": Maybe(Moment), "client": Maybe(str),
    }],
    "copies": [{"migration": str, "copy": _COPY}],
    "by_cli": Maybe([{"version": str, "name": Maybe(str), "hash": Maybe(str)}]),
    "by_others": Maybe({tool: Maybe([[Maybe(str)]]) for tool in TOOLS}),
}  # fmt: skip
