"""The REST layer answers what PostgREST was recorded to answer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import local_supabase
import pytest
from conftest import POSTGREST_VERSIONS
from local_supabase import Cluster, LocalSupabase
from rest_calls import REAL_ONE

ANSWERS = Path(local_supabase.__file__).parent / "postgrest_answers"
RECORDED = json.loads((ANSWERS / "answers.json").read_text())
CASES = RECORDED["replayable"]
# The gateway's own answer is not PostgREST's; and pg-safeupdate is only emulated by the stand-in.
# To these 14.17 answers nothing: it repeats the transaction (see test_postgrest_versions.py).
UNANSWERED_BY_14 = ("run: deadlock", "run: serialization failure")


@pytest.fixture(scope="module", params=POSTGREST_VERSIONS)
def recorded_project(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[LocalSupabase]:
    """A project with the functions that the recorded requests call."""
    database = cluster.create_database()
    with database.connect() as connection:
        connection.execute((ANSWERS / "setup.sql").read_text())
    with LocalSupabase(database, postgrest=request.param) as running:
        yield running
    database.drop()


def token(project: LocalSupabase, kind: str) -> str:
    """The token that a recorded request was made with."""
    if kind == "bad_signature":
        return project.make_key("service_role", secret="another secret that is long enough")
    if kind == "expired":
        return project.make_key("service_role", exp=int(time.time()) - 3600)
    if kind == "garbage":
        return "not.ajwt"
    if kind == "unknown_role":
        return project.make_key("nobody_here")
    return project.make_key(kind)


def replay(project: LocalSupabase, case: dict[str, Any]) -> httpx.Response:
    """Send one recorded request."""
    headers = dict(case.get("headers", {}))
    if case["token"] != "none":
        headers |= {"apikey": project.anon_key, "Authorization": f"Bearer {token(project, case['token'])}"}
    content = case.get("raw")
    if content is None and case["body"] is not None:
        content = json.dumps(case["body"])
    if content is not None:
        headers.setdefault("Content-Type", "application/json")
    return httpx.request(case["method"], f"{project.url}/rest/v1{case['path']}", headers=headers, content=content)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_answers_as_recorded(recorded_project: LocalSupabase, case: dict[str, Any]) -> None:
    if REAL_ONE and "safeupdate" in case["name"]:
        pytest.skip("the server has no pg-safeupdate")
    if recorded_project.postgrest == "14" and case["name"] in UNANSWERED_BY_14:
        pytest.skip("14 repeats this transaction without end")
    answer = replay(recorded_project, case)
    body = answer.json() if answer.headers.get("content-type", "").startswith("application/json") else answer.text
    expected = case["response"]
    if case["token"] == "none":
        body = json.loads(body)
    assert (answer.status_code, body) == (case["status"], expected)
    headers = {name: answer.headers.get(name) for name in case.get("response_headers", {})}
    assert headers == case.get("response_headers", {})


def test_the_recorded_cases_are_all_there() -> None:
    assert len(CASES) == 69
