"""The application of the demo: a signed-in user adds and changes rows of user_clusters over HTTP, one write after another."""

from __future__ import annotations

import threading
import time
import uuid
from types import TracebackType
from typing import Any, Self

import httpx
import psycopg

from local_supabase.server import LocalSupabase

USER = "00000000-0000-4000-8000-000000000001"  # one of the sample's
_PAUSE = 0.02  # seconds between two writes, so that the machine is left for the migration
_TIMEOUT = 30.0


class Application:
    """At work within its `with` block; afterwards it has counted `writes`, those `refused` (each is repeated until it succeeds), and
    the `longest` in seconds, from the first attempt to success.
    """

    def __init__(self, supabase: LocalSupabase) -> None:
        self.writes = 0
        self.refused = 0
        self.longest = 0.0
        self._written: dict[str, float] = {}  # what was acknowledged: the score of each row
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="application", daemon=True)
        headers = {
            "apikey": supabase.anon_key,
            "Authorization": f"Bearer {supabase.authenticated_key(USER)}",
            "Prefer": "return=representation",
        }
        self._client = httpx.Client(base_url=f"{supabase.url}/rest/v1", headers=headers, timeout=_TIMEOUT)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(_TIMEOUT)
        self._client.close()

    def count_lost(self, connection: psycopg.Connection[Any]) -> int:
        """How many rows are not as the last acknowledged write left them."""
        rows = connection.execute(
            "select id::text, cluster_score from public.user_clusters where id::text = any(%s)", [list(self._written)]
        )
        found = dict(rows.fetchall())
        return sum(found.get(row) != score for row, score in self._written.items())

    def _work(self) -> None:
        while not self._stop.wait(_PAUSE):
            began = time.monotonic()
            adds = self.writes % 2 == 0
            row = str(uuid.uuid4()) if adds else next(reversed(self._written))
            score = self.writes / 1000
            while not self._write(adds, row, score):
                self.refused += 1
                if self._stop.wait(_PAUSE):
                    return
            self._written[row] = score
            self.writes += 1
            self.longest = max(self.longest, time.monotonic() - began)

    def _write(self, adds: bool, row: str, score: float) -> bool:
        """Whether the API says that one row was written."""
        values: dict[str, Any] = {"cluster_score": score}
        try:
            if adds:
                values |= {"id": row, "user_id": USER, "cluster_type": "mixed"}
                answer = self._client.post("/user_clusters", json=values)
            else:
                answer = self._client.patch("/user_clusters", params={"id": f"eq.{row}"}, json=values)
        except httpx.TransportError:
            return False
        return answer.is_success and len(answer.json()) == 1
