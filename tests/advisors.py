"""Supabase's database advisors, run on a local database: the Supabase CLI's own, and the few of them that matter here.

The CLI (`npm install supabase`) brings the advisors' SQL with it, and takes more than a second to start. So it is run
once, the server's log says which statement it has sent, and that statement is then run as often as a test likes. Where
there is no CLI, what is checked are the conditions below, which follow the descriptions that Supabase publishes at
https://supabase.com/docs/guides/database/database-advisors.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple, cast

import psycopg
from conftest import ROOT
from local_supabase import Cluster, Database


class Finding(NamedTuple):
    """What an advisor has found, at level WARN or ERROR, and on which object."""

    name: str
    schema: str
    object: str


def find_cli() -> str | None:
    """The Supabase CLI: the one that SUPABASE_CLI names, else the one in .venv or on the PATH; None without one."""
    local = ROOT / ".venv" / "node_modules" / ".bin" / "supabase"
    return os.environ.get("SUPABASE_CLI") or (str(local) if local.exists() else shutil.which("supabase"))


def cluster_for_the_cli() -> Cluster:
    """A server that listens on 127.0.0.1: the CLI takes a URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Cluster(tcp_port=port)


def run_cli(program: str, database: Database) -> set[Finding]:
    """What `supabase db advisors` answers for a database of such a server."""
    url = f"postgresql://postgres@127.0.0.1:{database.cluster.port}/{database.name}?sslmode=disable"
    command = [
        program,
        "db",
        "advisors",
        f"--remote={url}",
        "--level",
        "warn",
        "--output-format",
        "json",
        "--agent",
        "no",
    ]
    with tempfile.TemporaryDirectory() as home:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": home,
            "DO_NOT_TRACK": "1",
            "SUPABASE_TELEMETRY_DISABLED": "1",
        }
        done = subprocess.run(
            command, env=environment, cwd=home, capture_output=True, text=True, timeout=60, check=False
        )
    if done.returncode != 0:
        raise RuntimeError(f"supabase db advisors failed: {done.stdout}{done.stderr}")
    return {_finding(result) for result in json.loads(done.stdout)["results"]}


def capture_statement(program: str, database: Database) -> str:
    """The statement by which the CLI looks for everything."""
    with database.connect("supabase_admin") as connection:
        connection.execute(f"alter database {database.name} set log_statement = 'all'".encode())
    run_cli(program, database)
    return longest_statement(database.cluster.log_file)


def longest_statement(log: Path) -> str:
    """The longest statement in a server's log, whose further lines begin with a tab."""
    entries = re.findall(r"LOG:  statement: (.*\n(?:\t.*\n)*)", log.read_text())
    return cast(str, max(entries, key=len)).replace("\n\t", "\n")


def run_statement(connection: psycopg.Connection[Any], statement: str) -> set[Finding]:
    """What the captured statement finds, run as the CLI runs it."""
    with connection.transaction(force_rollback=True):
        connection.execute("select set_config('pgrst.db_schemas', 'public,graphql_public', true)")
        connection.execute("set local search_path = ''")
        cursor = connection.execute(statement.encode())
        names = [column.name for column in cursor.description or []]
        results = [dict(zip(names, row, strict=True)) for row in cursor]
    return {_finding(result) for result in results if result["level"] in ("WARN", "ERROR")}


def run_own_checks(connection: psycopg.Connection[Any]) -> set[Finding]:
    """What the conditions below find."""
    return {
        Finding(name, *row) for name, query in CHECKS.items() for row in connection.execute(query.encode()).fetchall()
    }


def _finding(result: dict[str, Any]) -> Finding:
    metadata = result["metadata"] or {}
    return Finding(result["name"], metadata.get("schema", ""), metadata.get("name", ""))


# Of a table's policies: their condition where its calls of functions of auth are not wrapped into a subquery.
_UNWRAPPED = r"regexp_replace(e.text, '\( ?select (auth\.[a-z]+\(\))', '', 'gi') ~ 'auth\.[a-z]+\(\)'"
_POLICY = """
from pg_policy as p
inner join pg_class as c on c.oid = p.polrelid
cross join lateral (values (pg_get_expr(p.polqual, p.polrelid)), (pg_get_expr(p.polwithcheck, p.polrelid))) as e (text)
"""
_TABLE = "select 'public', c.relname from pg_class as c where c.relnamespace = 'public'::regnamespace"

# Names as Supabase gives them; a query answers schema and name of what it finds.
CHECKS = {
    "rls_disabled_in_public": f"{_TABLE} and c.relkind = 'r' and not c.relrowsecurity",
    "policy_exists_rls_disabled": (
        f"{_TABLE} and not c.relrowsecurity and exists (select from pg_policy as p where p.polrelid = c.oid)"
    ),
    "security_definer_view": (
        f"{_TABLE} and c.relkind = 'v' and coalesce(array_to_string(c.reloptions, ','), '') !~ 'security_invoker'"
    ),
    "auth_rls_initplan": (
        f"select c.relnamespace::regnamespace::text, c.relname {_POLICY} where c.relrowsecurity and {_UNWRAPPED}"
    ),
    "rls_policy_always_true": (
        f"select c.relnamespace::regnamespace::text, c.relname {_POLICY}"
        " where c.relrowsecurity and p.polpermissive and p.polcmd <> 'r' and e.text = 'true'"
    ),
    "multiple_permissive_policies": """
        select c.relnamespace::regnamespace::text, c.relname
        from pg_policy as p
        inner join pg_class as c on c.oid = p.polrelid
        inner join pg_roles as r on r.oid = any (p.polroles) or p.polroles = '{0}'
        cross join unnest(array['r', 'a', 'w', 'd']) as command
        where
            p.polpermissive and p.polcmd::text in (command, '*') and r.rolname in ('anon', 'authenticated')
        group by c.oid, r.oid, command
        having count(*) > 1
    """,
    "function_search_path_mutable": """
        select p.pronamespace::regnamespace::text, p.proname
        from pg_proc as p
        where
            p.pronamespace::regnamespace::text in ('public', 'rpc_migrations')
            and coalesce(array_to_string(p.proconfig, ','), '') !~ 'search_path='
    """,
    "duplicate_index": f"""
        {_TABLE} and c.oid in (
            select i.indrelid from pg_index as i
            group by i.indrelid, regexp_replace(pg_get_indexdef(i.indexrelid), ' INDEX .* ON ', '')
            having count(*) > 1
        )
    """,
    # These two came after the version of the CLI that this was tried with.
    "security_definer_function_executable": """
        select p.pronamespace::regnamespace::text, p.proname
        from pg_proc as p
        cross join unnest(array['anon', 'authenticated']) as role
        where
            p.pronamespace::regnamespace::text in ('public', 'rpc_migrations') and p.prosecdef
            and has_function_privilege(role, p.oid, 'execute')
    """,
    "pg_graphql_table_exposed": """
        select n.nspname, c.relname || ' to ' || role
        from pg_class as c
        inner join pg_namespace as n on n.oid = c.relnamespace and n.nspname !~ '^(pg_|information_schema)'
        cross join unnest(array['anon', 'authenticated']) as role
        where c.relkind in ('r', 'v') and has_any_column_privilege(role, c.oid, 'select')
    """,
}
LATER_THAN_THE_CLI = {"security_definer_function_executable", "pg_graphql_table_exposed"}
