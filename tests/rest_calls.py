"""Requests to a local Supabase as the application sends them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
from local_supabase import LocalSupabase

REAL_ONE = "POSTGREST" in os.environ  # whether it is a real PostgREST that answers, and not the stand-in


def rpc(project: LocalSupabase, name: str, key: str | None = None, **arguments: Any) -> httpx.Response:
    """Call a function through the API, by default with the service key."""
    headers = {"apikey": key or project.service_key}
    return httpx.post(f"{project.url}/rest/v1/rpc/{name}", headers=headers, json=arguments, timeout=30)


def in_background(call: Callable[[], httpx.Response]) -> Callable[[], httpx.Response]:
    """Start a request; the function that is returned waits for its answer."""
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()

    def result() -> httpx.Response:
        thread.join(20)
        return answers[0]

    return result


def define(admin: psycopg.Connection[Any], function: str) -> None:
    """Create a function in public."""
    admin.execute(f"create function public.{function}".encode())


def known(project: LocalSupabase, name: str) -> bool:
    """Whether the REST layer knows the function (called without arguments)."""
    return rpc(project, name).status_code != 404


def wait_until(condition: Callable[[], bool], seconds: float = 15) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
