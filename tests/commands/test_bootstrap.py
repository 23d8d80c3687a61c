"""db/bootstrap.sql, which a person runs in the SQL Editor where nobody lets us deploy over HTTPS, and what leads there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import httpx
import psycopg
import pytest
from checkout import FUNCTION_FILE, Checkout, said
from conftest import POSTGREST_VERSIONS, ROOT
from local_supabase import Cluster, LocalSupabase
from projects import deploy, is_migrated, one, project
from rpc_migrations.deployment import current_version
from terminal import Person

DEPLOY, MIGRATE = "deploy_sql_function.py", "migrate_clusters.py"
BOOTSTRAP = (ROOT / "db" / "bootstrap.sql").read_text(encoding="utf-8")
COMMENT = "select obj_description(oid, 'pg_proc') from pg_proc where proname = 'execute_sql'"
ROUTINES = "select p.*, p.xmin from pg_proc as p where proname = 'execute_sql'"
PRESS = "Press Enter when it has been run"


@pytest.fixture
def hosted(cluster: Cluster, postgrest: str) -> Iterator[LocalSupabase]:
    """As a hosted project is: no /pg/query, nothing deployed, an old table."""
    with project(cluster, deployed=False, meta=False, postgrest=postgrest) as running:
        yield running


def run_by_hand(running: LocalSupabase, sql: str = BOOTSTRAP, role: str = "postgres") -> None:
    """Run a text as the SQL Editor does: as postgres (on a self-hosted project as supabase_admin), in one piece."""
    with running.database.connect(role) as connection:
        connection.execute(sql.encode())


def call(running: LocalSupabase, key: str, query: str) -> httpx.Response:
    """Call execute_sql through the API."""
    return httpx.post(f"{running.url}/rest/v1/rpc/execute_sql", headers={"apikey": key}, json={"query": query})


def link_in(text: str) -> str:
    """The SQL that the one link in an output has."""
    (link,) = re.findall(r"https://supabase.com/dashboard/project/[a-z]{20}/sql/new\?content=(\S+)", text)
    return unquote(link)


@pytest.mark.parametrize("postgrest", POSTGREST_VERSIONS)
@pytest.mark.parametrize("role", ["postgres", "supabase_admin"])
def test_with_it_the_key_alone_deploys_and_migrates(checkout: Checkout, hosted: LocalSupabase, role: str) -> None:
    run_by_hand(hosted, role=role)
    said(checkout.run(DEPLOY, env=hosted.environment()), "Deployed through execute_sql itself")
    said(checkout.run(MIGRATE, env=hosted.environment()), "is applied")
    with hosted.database.connect() as connection:
        assert is_migrated(connection)
        assert one(connection, COMMENT) == current_version()
        assert one(connection, "select count(*) from pg_proc where proname = 'execute_sql'") == 1, "it is replaced"


def test_before_the_rest_is_there_it_says_what_is_next(checkout: Checkout, hosted: LocalSupabase) -> None:
    run_by_hand(hosted)
    done = checkout.run(MIGRATE, env=hosted.environment())
    said(done, "Only the bootstrap of execute_sql is deployed", f"python scripts/{DEPLOY}", code=1)
    done = checkout.run("doctor.py", env=hosted.environment())
    said(done, "Only the bootstrap", "answers, about 20 rows")


def test_nobody_but_the_service_may_execute_it(hosted: LocalSupabase) -> None:
    run_by_hand(hosted)
    for key in (hosted.anon_key, hosted.authenticated_key("u"), hosted.publishable_key):
        assert call(hosted, key, "select 1").json()["code"] == "42501"
    with hosted.database.connect() as connection:
        may = connection.execute(
            "select r.rolname from pg_roles as r, pg_proc as p where p.proname = 'execute_sql' and not r.rolsuper "
            "and has_function_privilege(r.oid, p.oid, 'execute') and not pg_has_role(r.oid, p.proowner, 'usage') "
            "and not pg_has_role(r.oid, 'service_role', 'usage')"
        ).fetchall()
        assert may == []
    assert call(hosted, hosted.service_key, "create table public.t (id int)").status_code == 200


def test_it_is_taken_away_like_the_whole(checkout: Checkout, hosted: LocalSupabase) -> None:
    run_by_hand(hosted)
    said(checkout.run("remove_sql_function.py", env=hosted.environment()), "execute_sql was removed")
    with hosted.database.connect() as connection:
        assert one(connection, COMMENT) is None


@pytest.mark.parametrize("there", ["the bootstrap", "ours"])
def test_what_is_there_stays_as_it_is(hosted: LocalSupabase, there: str) -> None:
    with hosted.database.connect() as connection:
        if there == "ours":
            deploy(connection)
        else:
            run_by_hand(hosted)
        before = connection.execute(ROUTINES).fetchall()
        run_by_hand(hosted)
        assert connection.execute(ROUTINES).fetchall() == before


@pytest.mark.parametrize(
    "other",
    [
        "function public.execute_sql(sql text) returns text language sql as 'select sql'",
        "procedure public.execute_sql(query text) language plpgsql as 'begin execute query; end'",
    ],
    ids=["function", "procedure"],
)
def test_somebody_elses_stays_and_the_sql_editor_says_so(checkout: Checkout, hosted: LocalSupabase, other: str) -> None:
    """The API shows neither to us: that somebody runs this is the first that is heard of it."""
    with hosted.database.connect() as connection:
        connection.execute(f"create {other}".encode())
        before = connection.execute(ROUTINES).fetchall()
        said(checkout.run(DEPLOY, env=hosted.environment()), "press Run", code=1)
        with pytest.raises(psycopg.errors.RaiseException, match="another execute_sql is there"):
            run_by_hand(hosted)
        assert connection.execute(ROUTINES).fetchall() == before


def test_without_a_terminal_the_steps_are_told(checkout: Checkout, hosted: LocalSupabase) -> None:
    done = checkout.run(DEPLOY, env=hosted.environment())
    said(done, "no way in over HTTPS is open", "db/bootstrap.sql", "press Run", "run the same command again", code=1)
    assert link_in(done.stderr) == BOOTSTRAP
    assert len(re.findall(r"https://\S+", done.stderr)[0]) < 2000, "what any browser and server takes"
    assert checkout.written() == set(), "what nobody reads is not what to paste"


def test_on_a_terminal_it_leads_through(checkout: Checkout, hosted: LocalSupabase) -> None:
    person = Person(checkout, hosted.environment(), DEPLOY)
    person.sees(PRESS)
    person.types("")
    person.sees("this has not been run yet")
    person.sees(PRESS)
    run_by_hand(hosted)
    person.types("")
    code, text = person.leaves()
    assert code == 0, text
    assert "Deployed through execute_sql itself" in text
    assert link_in(text.replace("\n", "").replace("%0AOr", "%0A Or")) == BOOTSTRAP, "in one piece"


@pytest.mark.parametrize("answer", ["end of input", "Ctrl-C", "--yes", "MIGRATION_YES"])
def test_who_does_not_run_it_has_changed_nothing(checkout: Checkout, hosted: LocalSupabase, answer: str) -> None:
    env = hosted.environment() | ({"MIGRATION_YES": "1"} if answer == "MIGRATION_YES" else {})
    person = Person(checkout, env, DEPLOY, *(["--yes"] if answer == "--yes" else []))
    if answer in ("end of input", "Ctrl-C"):
        person.sees(PRESS)
        person.presses("d" if answer == "end of input" else "c")
    code, text = person.leaves()
    assert code == (130 if answer == "Ctrl-C" else 1), text
    assert "Traceback" not in text
    with hosted.database.connect() as connection:
        assert one(connection, COMMENT) is None


def test_where_its_time_is_over_one_line_opens_it(checkout: Checkout, hosted: LocalSupabase) -> None:
    with hosted.database.connect() as connection:
        deploy(connection)
        connection.execute("update rpc_migrations.access set open_until = now() - interval '1 hour'")
    done = checkout.run(DEPLOY, env=hosted.environment())
    said(done, "has been closed since", "press Run", code=1)
    run_by_hand(hosted, link_in(done.stderr))
    said(checkout.run(DEPLOY, "--for", "2h", env=hosted.environment()), "It is open until")
    said(checkout.run(MIGRATE, env=hosted.environment()), "is applied")


def test_where_it_cannot_help_the_whole_file_is_written(checkout: Checkout, hosted: LocalSupabase) -> None:
    """With the anon key; and where another way in was asked for."""
    env: dict[str, Any] = {"SUPABASE_URL": hosted.url, "SUPABASE_ANON_KEY": hosted.anon_key}
    said(checkout.run(DEPLOY, env=env), "no way in", f"Written: {FUNCTION_FILE}", code=1)
    done = checkout.run(DEPLOY, "--via", "management", env=hosted.environment())
    said(done, "no way in", f"Written: {FUNCTION_FILE}", code=1)


def test_a_project_whose_editor_is_not_known_gets_no_link(checkout: Checkout, hosted: LocalSupabase) -> None:
    env = hosted.environment() | {"SUPABASE_SERVICE_KEY": hosted.secret_key}  # it names no project
    done = checkout.run(DEPLOY, env=env)
    said(done, "in the SQL Editor, run db/bootstrap.sql", code=1)
    assert "supabase.com" not in done.stderr
