"""Who may do what, over HTTP and in the database, at each moment of a migration and with both kinds of default grants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from local_supabase import Cluster, Database, LocalSupabase, create_old_table
from postgrest.exceptions import APIError
from step_runner import MIGRATION, ROLLBACK, deploy, rebuild_file, run, run_file, run_steps
from supabase import Client, create_client

USER = "00000000-0000-4000-8000-000000000001"
OTHER = "00000000-0000-4000-8000-000000000002"
NOBODY = "00000000-0000-4000-8000-00000000dead"
INTRUDER = "intruder"
ROLES = ("anon", "authenticated", "service_role", INTRUDER)

DENIED = "42501"
NO_SUCH_TABLE = "PGRST205"
NOT_EXPOSED = "PGRST106"
NO_SUCH_FUNCTION = "PGRST202"

# When the rights are looked at: what has been run by then.
MOMENTS: dict[str, list[tuple[str, str]]] = {
    "before": [],
    "capturing": [(MIGRATION, "begin the copy")],
    "before the swap": [(MIGRATION, "compare the old and the new table")],
    "after": [(MIGRATION, "")],
    "rolling back": [(MIGRATION, ""), (ROLLBACK, "roll back: begin")],
    "rolled back": [(MIGRATION, ""), (ROLLBACK, "")],
}
SWAPPED = ("after", "rolling back")

Outcome = int | str


@dataclass(frozen=True)
class Project:
    """A project at some moment; everyone's client, and its database."""

    moment: str
    database: Database
    clients: dict[str, Client]

    @property
    def has_prompt_refinements(self) -> bool:
        """Whether the migration has come to that."""
        return self.moment in (*SWAPPED, "rolled back")


def make_clients(api: LocalSupabase) -> dict[str, Client]:
    """A client for each who may knock."""
    keys = {
        "anon": api.anon_key,
        "publishable": api.publishable_key,
        "user": api.authenticated_key(USER),
        "unknown user": api.authenticated_key(NOBODY),
        "unknown role": api.make_key("nosuchrole"),
        "role of someone else": api.make_key(INTRUDER),
        "service": api.service_key,
        "secret": api.secret_key,
    }
    return {who: create_client(api.url, key) for who, key in keys.items()}


@pytest.fixture(scope="module", autouse=True)
def intruder(cluster: Cluster) -> Iterator[None]:
    """A role of the database that has nothing to do with the API."""
    with cluster.connect() as connection:
        connection.execute(f"create role {INTRUDER}".encode())
        yield
        connection.execute(f"drop role {INTRUDER}".encode())


@pytest.fixture(
    scope="module", params=[(moment, grants) for grants in ("all", "none") for moment in MOMENTS], ids="-".join
)
def project(request: pytest.FixtureRequest, cluster: Cluster, intruder: None) -> Iterator[Project]:
    """A project with ten rows of each of two users, at each moment."""
    moment, grants = request.param
    database = cluster.create_database(default_grants=grants)
    with database.connect() as admin:
        deploy(admin)
        create_old_table(admin, rows=20)
        for file, until in MOMENTS[moment]:
            run_file(admin, file, until)
    with LocalSupabase(database) as api:
        yield Project(moment, database, make_clients(api))
    database.drop()


def outcome(request: Any) -> Outcome:
    """How many rows a request reaches, or the code of the error that it gets."""
    try:
        return len(request.execute().data)
    except APIError as error:
        return str(error.code)


def new_row(table: str, user: str) -> dict[str, str]:
    """A row to add."""
    if table == "prompt_refinements":
        texts = {"original_prompt": "a", "refined_prompt": "b", "session_id": NOBODY}
        return {"user_id": user, "cluster_type": "added", **texts}
    return {"user_id": user, "cluster_type": "added"}


def attempts(client: Client, table: str, user: str) -> dict[str, Outcome]:
    """What comes of reading, adding, changing and deleting a user's rows."""
    rows = client.table(table)
    return {
        "read": outcome(rows.select("*").eq("user_id", user)),
        "add": outcome(rows.insert(new_row(table, user))),
        "change": outcome(rows.update({"cluster_type": "changed"}).eq("user_id", user)),
        "delete": outcome(rows.delete().eq("user_id", user).eq("cluster_type", "nothing")),
    }


def all_four(result: Outcome) -> dict[str, Outcome]:
    """The same for each of the attempts."""
    return dict.fromkeys(("read", "add", "change", "delete"), result)


# --- user_clusters: the same rights at every moment


def test_user_clusters_of_strangers(project: Project) -> None:
    # The old table was open to the anonymous key, but for its policies, and so is the new one.
    nothing = {"read": 0, "add": DENIED, "change": 0, "delete": 0}
    for who in ("anon", "publishable", "unknown user"):
        assert attempts(project.clients[who], "user_clusters", USER) == nothing, who
    assert outcome(project.clients["anon"].table("user_clusters").select("*")) == 0


def test_user_clusters_of_a_user(project: Project) -> None:
    client = project.clients["user"]
    added = new_row("user_clusters", USER)
    assert attempts(client, "user_clusters", OTHER) == {"read": 0, "add": DENIED, "change": 0, "delete": 0}
    rows = client.table("user_clusters")
    own = outcome(rows.select("*"))
    assert outcome(rows.insert(added)) == 1
    assert outcome(rows.select("*")) == int(own) + 1 > 10
    assert outcome(rows.update({"cluster_type": "mine"}).eq("user_id", USER)) == int(own) + 1
    assert outcome(rows.update({"user_id": OTHER}).eq("user_id", USER)) == DENIED
    assert outcome(rows.delete().eq("user_id", USER)) == 0


def test_user_clusters_of_a_user_who_is_gone(project: Project) -> None:
    rows = project.clients["unknown user"].table("user_clusters")
    assert outcome(rows.insert(new_row("user_clusters", NOBODY))) == "23503"


def test_user_clusters_for_the_service(project: Project) -> None:
    for who in ("service", "secret"):
        rows = project.clients[who].table("user_clusters")
        assert outcome(rows.select("*").eq("user_id", OTHER)) == 10
        assert outcome(rows.insert(new_row("user_clusters", OTHER))) == 1
        assert outcome(rows.update({"cluster_type": "x"}).eq("user_id", OTHER)) == 11
        some_row: Any = rows.select("id").eq("user_id", OTHER).limit(1).execute().data[0]
        assert outcome(rows.delete().eq("id", some_row["id"])) == 1


def test_roles_that_the_api_does_not_know(project: Project) -> None:
    for who in ("unknown role", "role of someone else"):
        client = project.clients[who]
        results = {
            *attempts(client, "user_clusters", USER).values(),
            *attempts(client, "prompt_refinements", USER).values(),
            *attempts(client, "user_clusters_backup", USER).values(),
            outcome(client.rpc("execute_sql", {"query": "select 1"})),
        }
        assert all(isinstance(result, str) for result in results), (who, results)


# --- prompt_refinements, the backup, and what a rollback keeps


def test_users_read_their_own_refinements_and_only_the_service_writes(project: Project) -> None:
    clients = project.clients
    if not project.has_prompt_refinements:
        for who in ("anon", "user", "service"):
            assert attempts(clients[who], "prompt_refinements", USER) == all_four(NO_SUCH_TABLE), who
        return
    assert attempts(clients["service"], "prompt_refinements", USER) == {"read": 0, "add": 1, "change": 1, "delete": 0}
    only_read = {"add": DENIED, "change": DENIED, "delete": DENIED}
    assert attempts(clients["user"], "prompt_refinements", USER) == {"read": 1, **only_read}
    assert attempts(clients["unknown user"], "prompt_refinements", USER) == {"read": 0, **only_read}
    assert attempts(clients["anon"], "prompt_refinements", USER) == all_four(DENIED)
    removed = clients["service"].table("prompt_refinements").delete().eq("user_id", USER)
    assert outcome(removed) == 1


def test_the_original_and_what_is_kept_are_closed_to_everyone(project: Project) -> None:
    with project.database.connect() as admin:
        query = "select relname::text from pg_class where relkind = 'r' and relname ~ '^user_clusters_'"
        closed = [name for (name,) in admin.execute(query).fetchall()]
    assert len(closed) == (0 if project.moment in ("before", "capturing", "before the swap") else 1)
    for table in closed:
        for who in ("anon", "publishable", "user", "unknown user", "service", "secret"):
            assert attempts(project.clients[who], table, USER) == all_four(DENIED), (who, table)
    if project.moment not in SWAPPED:
        assert attempts(project.clients["service"], "user_clusters_backup", USER) == all_four(NO_SUCH_TABLE)


# --- execute_sql and the private schema


def test_only_the_service_key_may_execute_execute_sql(project: Project) -> None:
    plain = {"query": "select 1 as one"}
    step = {"query": "select 1", "migration": "m", "step": "s", "checksum": "c"}
    for who in ("anon", "publishable", "user", "unknown user"):
        for arguments in (plain, step):
            call = project.clients[who].rpc("execute_sql", arguments)
            assert outcome(call) == DENIED, who
    for who in ("service", "secret"):
        assert project.clients[who].rpc("execute_sql", plain).execute().data == [{"one": 1}]


def private_objects(admin: psycopg.Connection[Any]) -> tuple[list[str], list[str]]:
    """The names of the functions and of the tables (shadow table and log among them) of the private schema."""
    functions = "select distinct proname::text from pg_proc where pronamespace = 'rpc_migrations'::regnamespace"
    tables = "select relname::text from pg_class where relnamespace = 'rpc_migrations'::regnamespace and relkind = 'r'"
    return [name for (name,) in admin.execute(functions)], [name for (name,) in admin.execute(tables)]


@pytest.mark.parametrize(
    "text",
    [
        "grant execute on all functions in schema public to anon, authenticated",
        "grant all on all routines in schema public to public",
        f"grant execute on all functions in schema public to {INTRUDER} with grant option",
        "revoke all on all functions in schema public from public, anon, authenticated, service_role",
    ],
)
@pytest.mark.parametrize("step", [False, True], ids=["plain", "step"])
def test_a_text_about_all_functions_leaves_execute_sql_as_it_was(
    admin: psycopg.Connection[Any], supabase: LocalSupabase, text: str, step: bool
) -> None:
    """Migrations have such lines, and mean the application's own functions."""
    deploy(admin)
    clients = make_clients(supabase)
    arguments = {"migration": "m", "step": "one", "checksum": "c", "following": []} if step else {}
    clients["service"].rpc("execute_sql", {"query": text, **arguments}).execute()
    callers = admin.execute(
        "select rolname from pg_roles where not rolsuper and has_function_privilege("
        "oid, (select oid from pg_proc where proname = 'execute_sql'), 'execute') order by 1"
    ).fetchall()
    assert [name for (name,) in callers if not name.startswith("pg_")] == ["postgres", "service_role"]
    with pytest.raises(APIError) as refused:
        clients["anon"].rpc("execute_sql", {"query": "select 1"}).execute()
    assert refused.value.code == DENIED


ALL_TABLES = "grant all on all tables in schema public to anon, authenticated, service_role"
# Neither of these, before that, names the table that was moved aside.
BESIDE = ["", "-- leave {aside} alone\n", "alter table if exists {aside}_2 rename to old; "]


@pytest.mark.parametrize("step", [False, True], ids=["plain", "step"])
@pytest.mark.parametrize("file", [MIGRATION, ROLLBACK], ids=["backup", "kept by a rollback"])
@pytest.mark.parametrize("beside", BESIDE, ids=["alone", "comment", "longer name"])
def test_a_text_about_all_tables_opens_none_that_was_moved_aside(
    admin: psycopg.Connection[Any], supabase: LocalSupabase, file: str, step: bool, beside: str
) -> None:
    """The usual remedy for "permission denied": the policies of the original are still there, and let rows through."""
    deploy(admin)
    create_old_table(admin, rows=20)
    run_file(admin, MIGRATION)
    if file == ROLLBACK:
        run_file(admin, ROLLBACK)
    aside = f"user_clusters_{'backup' if file == MIGRATION else 'rolled_back'}"
    [(aside,)] = admin.execute("select relname::text from pg_class where relname ~ %s and relkind = 'r'", [f"^{aside}"])
    admin.execute("create table public.others (id integer primary key)")
    admin.execute(f"grant select (id) on public.{aside} to {INTRUDER}".encode())
    clients = make_clients(supabase)
    arguments = {"migration": "m", "step": "one", "checksum": "c", "following": []} if step else {}
    clients["service"].rpc("execute_sql", {"query": beside.format(aside=aside) + ALL_TABLES, **arguments}).execute()
    for who in ("anon", "user", "service"):
        assert attempts(clients[who], aside, USER) == all_four(DENIED), who
    assert outcome(clients["user"].table("user_clusters").select("*")) == 10
    assert outcome(clients["anon"].table("others").select("*")) == 0
    # What names it is meant.
    assert admin.execute("select has_column_privilege(%s, %s, 'id', 'select')", [INTRUDER, aside]).fetchone() == (True,)
    clients["service"].rpc(
        "execute_sql", {"query": f"GRANT SELECT\nON PUBLIC.{aside.upper()} TO service_role"}
    ).execute()
    run(admin, rebuild_file("others", "id bigint primary key"))  # of another table
    assert outcome(clients["service"].table(aside).select("*")) == 20


@pytest.mark.parametrize("renamed", [False, True])
def test_a_table_that_was_moved_aside_and_opened_by_hand(admin: psycopg.Connection[Any], renamed: bool) -> None:
    """As psql does. The deployment closes it again, unless it has got a name of its own."""
    deploy(admin)
    create_old_table(admin, rows=5)
    run_file(admin, MIGRATION)
    if renamed:
        admin.execute("alter table public.user_clusters_backup rename to archive")
    admin.execute(ALL_TABLES)
    deploy(admin)
    name = "archive" if renamed else "user_clusters_backup"
    assert admin.execute("select has_table_privilege('anon', %s, 'select')", [f"public.{name}"]).fetchone() == (
        renamed,
    )


def test_a_loop_over_all_functions_leaves_execute_sql_as_it_was(
    admin: psycopg.Connection[Any], supabase: LocalSupabase
) -> None:
    """Database advisors complain of `security definer` and of a search_path that is not set; migrations mend it by loops like this."""
    deploy(admin)
    look = "select prosecdef, proconfig from pg_proc where proname = 'execute_sql'"
    before = admin.execute(look).fetchone()
    text = """
        do $$
        declare one regprocedure;
        begin
            for one in select oid from pg_proc where pronamespace = 'public'::regnamespace loop
                execute format('alter function %s security invoker set search_path = public, pg_temp', one);
            end loop;
        end $$"""
    execute_sql = make_clients(supabase)["service"].rpc("execute_sql", {"query": text})
    execute_sql.execute()
    after = admin.execute(look).fetchone()
    assert before and after
    assert (after[0], sorted(after[1])) == (before[0], sorted(before[1]))
    execute_sql.execute()


def test_a_right_that_somebody_has_granted_opens_nothing(
    admin: psycopg.Connection[Any], supabase: LocalSupabase
) -> None:
    """As a migration that the Supabase CLI runs may do."""
    deploy(admin)
    admin.execute("grant execute on all functions in schema public to public, anon, authenticated")
    clients = make_clients(supabase)
    for who in ("anon", "user"):
        with pytest.raises(APIError) as refused:
            clients[who].rpc("execute_sql", {"query": "select 1"}).execute()
        assert refused.value.code == DENIED
    assert clients["service"].rpc("execute_sql", {"query": "select 1 as one"}).execute().data == [{"one": 1}]
    with supabase.database.connect("supabase_admin") as direct:
        direct.execute("select public.execute_sql('select 1')")
        direct.execute(f"set session authorization {INTRUDER}".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            direct.execute("select public.execute_sql('select 1')")


def test_the_private_schema_over_http(project: Project) -> None:
    with project.database.connect() as admin:
        functions, tables = private_objects(admin)
    assert {"runs", "journal", "copies", "foreign_keys"} <= set(tables)
    assert ("user_clusters" in tables) == (project.moment in ("capturing", "before the swap"))
    assert len(functions) > 40
    for who in ("anon", "user", "service"):
        client = project.clients[who]
        private = client.schema("rpc_migrations")
        for table in tables:
            assert outcome(private.table(table).select("*")) == NOT_EXPOSED
            if table != "user_clusters":
                assert outcome(client.table(table).select("*")) == NO_SUCH_TABLE
        for function in ("run_sql", "run_step", "begin_copy", "swap", "status"):
            assert function in functions
            assert outcome(private.rpc(function, {"query": "select 1"})) == NOT_EXPOSED
            assert outcome(client.rpc(function, {"query": "select 1"})) == NO_SUCH_FUNCTION


def test_the_private_schema_in_the_database(project: Project) -> None:
    with project.database.connect("supabase_admin") as admin:
        functions, tables = private_objects(admin)
        for role in ROLES:
            admin.execute(f"set role {role}".encode())
            for what in [*(f"table rpc_migrations.{name}" for name in tables)]:
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="schema"):
                    admin.execute(what.encode())
            for name in functions:
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="schema"):
                    admin.execute(f"select rpc_migrations.{name}()".encode())
            admin.execute("reset role")


PRIVATE_RIGHTS = """
select role, object
from unnest(%s::text[]) as role
cross join lateral (
    select 'schema' as object where has_schema_privilege(role, 'rpc_migrations', 'usage, create')
    union all
    select p.oid::regprocedure::text from pg_proc as p
    where p.pronamespace = 'rpc_migrations'::regnamespace and has_function_privilege(role, p.oid, 'execute')
    union all
    select c.relname from pg_class as c
    where c.relnamespace = 'rpc_migrations'::regnamespace and case c.relkind
        when 'r' then has_table_privilege(role, c.oid, 'select, insert, update, delete, truncate, references, trigger')
            or has_any_column_privilege(role, c.oid, 'select, insert, update, references')
        when 'S' then has_sequence_privilege(role, c.oid, 'usage, select, update')
        else false
    end
) as o
"""
PUBLIC_FUNCTIONS = """
select role, p.proname::text
from unnest(%s::text[]) as role, pg_proc as p
where p.pronamespace = 'public'::regnamespace and has_function_privilege(role, p.oid, 'execute')
"""
TABLE_RIGHTS = """
select role, command
from unnest(%s::text[]) as role, unnest(array['select', 'insert', 'update', 'delete']) as command
where has_table_privilege(role, 'public.user_clusters', command)
"""


@pytest.mark.parametrize("default_grants", ["all", "none"])
def test_rights_after_every_step(admin: psycopg.Connection[Any], default_grants: str) -> None:
    """Nobody has any right in the private schema, and nobody loses or gains one on user_clusters, at any moment."""

    def rights(query: str) -> set[Any]:
        return set(admin.execute(query.encode(), [list(ROLES)]).fetchall())

    create_old_table(admin, rows=5, variant="extra")
    functions = rights(PUBLIC_FUNCTIONS)
    on_the_table = rights(TABLE_RIGHTS)
    assert on_the_table == {(role, right) for role in ROLES[:3] for right in ("select", "insert", "update", "delete")}
    deploy(admin)
    for file in (MIGRATION, ROLLBACK, MIGRATION):
        for step in run_steps(admin, file):
            assert rights(PRIVATE_RIGHTS) == set(), step
            assert rights(PUBLIC_FUNCTIONS) == functions | {("service_role", "execute_sql")}, step
            assert rights(TABLE_RIGHTS) == on_the_table, step


@pytest.mark.parametrize("default_grants", ["all", "none"])
def test_rights_where_default_privileges_open_everything(
    database: Database, admin: psycopg.Connection[Any], default_grants: str
) -> None:
    """Default privileges for any role, in every schema and on schemas, open nothing of ours, nor what was closed to it."""
    for kind in ("schemas", "tables", "functions", "sequences"):
        admin.execute(f"alter default privileges grant all on {kind} to {', '.join(ROLES)}".encode())
    create_old_table(admin, rows=5, variant="extra")
    admin.execute(f"revoke all on public.user_clusters from {INTRUDER}".encode())
    deploy(admin)
    tables = "select has_table_privilege(%s, c.oid, 'select') from pg_class as c where c.relname ~ '^(user_clust|prompt_ref).*s(_|$)' and c.relkind = 'r'"
    for file in (MIGRATION, ROLLBACK, MIGRATION):
        for step in run_steps(admin, file):
            assert admin.execute(PRIVATE_RIGHTS.encode(), [list(ROLES)]).fetchall() == [], step
            assert (
                admin.execute(PUBLIC_FUNCTIONS.encode(), [[INTRUDER, "anon"]])
                .fetchall()
                .count((INTRUDER, "execute_sql"))
                == 0
            )
            assert not any(can_read for (can_read,) in admin.execute(tables.encode(), [INTRUDER])), step
    with database.connect("supabase_admin") as superuser:
        superuser.execute(f"grant {INTRUDER} to authenticator; grant usage on schema public to {INTRUDER}".encode())
        try:
            with LocalSupabase(database) as api:
                client = make_clients(api)["role of someone else"]
                assert outcome(client.rpc("execute_sql", {"query": "select 1"})) == DENIED
                for table in ("user_clusters", "user_clusters_backup", "prompt_refinements"):
                    assert outcome(client.table(table).select("*")) == DENIED
        finally:
            superuser.execute(f"revoke {INTRUDER} from authenticator".encode())


@pytest.mark.parametrize("default_grants", ["all", "none"])
def test_without_an_old_table(admin: psycopg.Connection[Any], supabase: LocalSupabase, default_grants: str) -> None:
    deploy(admin)
    admin.execute("insert into auth.users (id) values (%s)", [USER])
    run_file(admin, MIGRATION)
    clients = make_clients(supabase)
    assert attempts(clients["anon"], "user_clusters", USER) == all_four(DENIED)
    assert attempts(clients["user"], "user_clusters", USER) == {"read": 0, "add": 1, "change": 1, "delete": DENIED}
    assert attempts(clients["service"], "user_clusters", USER) == {"read": 1, "add": 1, "change": 2, "delete": 0}
    verify_anon = admin.execute("select has_any_column_privilege('anon', 'public.user_clusters', 'select')").fetchone()
    assert verify_anon == (False,)
