"""Writes what would be sent as plain SQL files instead, for the SQL Editor or psql.

The same steps are run by the same function, rpc_migrations.run_step: so they take effect exactly once and stand in the journal,
whichever way they come.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from pathlib import Path

from .deployment import SIGNATURE, SQL_FOLDER, current_version, deployment_sql, version_number
from .errors import MigrationError
from .migration import Migration, Step
from .places import PROJECT_ROOT
from .sql import dollar_quote, quote_literal

DEPLOY_FILE = PROJECT_ROOT / "db" / "create_execute_sql_function_output.sql"
PUT_BACK_FILE = PROJECT_ROOT / "db" / "put_back_output.sql"
DROP_FILE = PROJECT_ROOT / "db" / "drop_execute_sql_function_output.sql"

# What a file does, by what its name begins with.
_TITLES = {
    "": "{}", "rollback_": "the rollback of {}", "give_up_rollback_": "giving up the rollback of {}",
    "finish_": "closing the way back of {}",
}  # fmt: skip

# A pooler in transaction mode hands a session on as it was left: the application would look up its tables with our search_path.
_NOT_POOLED = """\
select :'PORT' = '6543' as is_shared
\\gset
\\if :is_shared
do $$
begin
    raise exception 'port 6543 is the pooler in transaction mode, which shares this session with the application'
    using hint = 'Nothing was run. Use the direct connection or the pooler in session mode: port 5432.';
end;
$$;
\\endif
"""
# The first commit would fail, after a batch of rows.
_NOT_IN_A_TRANSACTION = """\
do $$
begin
    if pg_catalog.now() <> pg_catalog.statement_timestamp() then
        raise exception 'this file commits between its calls, and cannot run in a transaction'
        using hint = 'Nothing was run. Run it without -1 (--single-transaction), and without begin above it.';
    end if;
end;
$$;
"""
_NEEDS_DEPLOYMENT = """\
do $check$
begin
    if substring(
        obj_description(to_regnamespace('rpc_migrations'), 'pg_namespace') from '\\(version (\\d+)\\)')::integer > {number} then
        raise exception 'a newer version of execute_sql is deployed'
        using hint = 'Update the scripts, and write this file again.';
    end if;
    if obj_description(to_regprocedure('{signature}'), 'pg_proc') is distinct from {version} then
        raise exception 'execute_sql is not deployed, or another version of it'
        using hint = 'Run db/create_execute_sql_function_output.sql first.';
    end if;
end;
$check$;
"""


def write_deployment(opening: str) -> Path:
    """Write the deployment's SQL and the statement that opens execute_sql; return the path. Raises MigrationError if it cannot be written."""
    header = "-- Makes public.execute_sql and the private schema rpc_migrations, or brings them up to date.\n-- Run it whole: in the SQL Editor, or with psql -f.\n"
    deployed = f"pg_catalog.obj_description(pg_catalog.to_regprocedure('{SIGNATURE}'), 'pg_proc')"
    answer = _answer(
        f"case when {deployed} = {quote_literal(current_version())} then 'execute_sql is deployed' else 'execute_sql is not deployed' end"
    )
    return _write(DEPLOY_FILE, f"{header}\nbegin;\n\n{deployment_sql()}\n{opening}\ncommit;\n{answer}")


def write_migration(name: str, migrations: Sequence[Migration], *, prefix: str = "", online: bool = False) -> Path:
    """Write the steps of a file's migrations to db/[PREFIX]NAME[_online]_output.sql; return the path.

    In one transaction, for the SQL Editor; or with `online` for psql over a direct connection, committing after every call,
    so that the application can go on meanwhile. Raises MigrationError if it cannot be written.
    """
    path = PROJECT_ROOT / "db" / f"{prefix}{name}{'_online' if online else ''}_output.sql"
    return _write(path, migration_sql(_TITLES[prefix].format(name), migrations, online=online))


def migration_sql(title: str, migrations: Sequence[Migration], *, online: bool = False) -> str:
    """The text that `write_migration` writes."""
    check = _NEEDS_DEPLOYMENT.format(
        signature=SIGNATURE, version=quote_literal(current_version()), number=version_number(current_version())
    )
    steps = "\n\n".join(_step_sql(one, step, online=online) for one in migrations for step in one.steps)
    if online:
        header = (
            f"-- {title}, for psql -f over a direct connection. Each call commits, so the application goes on while it runs.\n"
            "-- If it is interrupted, run it again: steps that are done are not repeated.\n"
            f"\\set ON_ERROR_STOP on\n\\set AUTOCOMMIT on\n{_NOT_POOLED}{_NOT_IN_A_TRANSACTION}{_own_session().replace('set local ', 'set ')}"
        )
        return f"{header}\n{check}\n\n{steps}"
    header = (
        f"-- {title}, in one transaction: for the SQL Editor, after create_execute_sql_function_output.sql.\n"
        "-- Steps that are done are not repeated, so running it again does no harm. Until it commits, writes to the table wait.\n"
    )
    return (
        f"{header}\nbegin;\n{_own_session()}\n{check}\n\n{steps}\n\ncommit;\n{_answer(_steps_done(title, migrations))}"
    )


def _own_session() -> str:
    """The statements that make a transaction ours: with which settings, and as whom it runs."""
    return "\n".join(
        (SQL_FOLDER / name).read_text(encoding="utf-8") for name in ("00_settings.sql", "00_superuser.sql")
    )


def _steps_done(title: str, migrations: Sequence[Migration]) -> str:
    """An expression for how many of the steps are done."""
    steps = [f"({quote_literal(one.name)}, {quote_literal(step.name)})" for one in migrations for step in one.steps]
    return (
        f"pg_catalog.format('%s: steps done: %s of {len(steps)}', {quote_literal(title)}, (\n"
        "    select pg_catalog.count(j.finished_at) from rpc_migrations.journal as j\n"
        f"    where j.undone_at is null and (j.migration, j.step) in ({', '.join(steps)})\n))"
    )


def _answer(expression: str) -> str:
    """The last statement of a file. The SQL Editor shows neither notices nor how a transaction ended, and runs what has lost its end
    without an error: only this tells that the file was run whole.
    """
    return f"\n-- Shows one line. If none is shown, this end of the file is missing, and nothing was changed: paste the whole file.\nselect {expression} as answer;\n"


def write_removal(*, keep_journal: bool) -> Path:
    """Write the SQL that removes execute_sql; return the path. Raises MigrationError if it cannot be written."""
    header = "-- Removes public.execute_sql. Run it whole: in the SQL Editor, or with psql -f.\n"
    if not keep_journal:
        header += (
            "-- If a table was migrated, run this first, and keep what it answers: select rpc_migrations.putting_back();\n"
            "-- It puts foreign keys and triggers back on tables that were moved aside, and only the journal knows them.\n"
        )
    left = f"pg_catalog.to_regprocedure('{SIGNATURE}') is not null" + (
        "" if keep_journal else " or pg_catalog.to_regnamespace('rpc_migrations') is not null"
    )
    answer = _answer(
        f"case when {left} then 'execute_sql was not removed' else 'execute_sql was removed{'; the journal is kept' if keep_journal else ''}' end"
    )
    return _write(
        DROP_FILE, f"{header}\nbegin;\n{_own_session()}\n{removal_sql(keep_journal=keep_journal)}\ncommit;\n{answer}"
    )


def write_putting_back(sql: str) -> Path:
    """Write the SQL that puts back foreign keys and triggers of tables that were moved aside; return the path. Raises as the others do."""
    header = (
        "-- Foreign keys that were removed from tables which were moved aside, and triggers that were disabled on them. Run what you\n"
        "-- need before you use such a table again. A key is refused while there are rows without a parent.\n"
    )
    return _write(PUT_BACK_FILE, f"{header}\n{sql}\n")


def removal_sql(*, keep_journal: bool) -> str:
    """The SQL that removes execute_sql, and the private schema unless the journal is to be kept."""
    names = ["drop_execute_sql_function.sql", *([] if keep_journal else ["drop_journal.sql"])]
    return "\n\n".join((PROJECT_ROOT / "db" / name).read_text(encoding="utf-8") for name in names)


def _step_sql(migration: Migration, step: Step, *, online: bool) -> str:
    """A statement that sends one step until it is done."""
    commit = "        commit;\n" if online else ""
    later = _later(migration, step) if online and step.begins_a_copy else ""  # in one transaction all is undone anyway
    body = (
        "\ndeclare\n    answer jsonb;\n    waiting_since timestamptz;\nbegin\n    loop\n"
        "        answer := rpc_migrations.run_step(\n"
        f"            migration => {quote_literal(migration.name)}, step => {quote_literal(step.name)},\n"
        f"            checksum => {quote_literal(' '.join(step.checksums))}, batch => {quote_literal(step.batch)},\n"
        f"            separator => {quote_literal(step.separator)},\n"
        f"            query => {dollar_quote(chr(10) + step.query + chr(10))}{later}\n"
        "        );\n"
        f"        raise notice '%: %', {quote_literal(step.name)}, rpc_migrations.in_words(answer);\n"
        "        exit when answer ->> 'state' = 'done';\n"
        f"{commit}"
        "        waiting_since := rpc_migrations.before_next_call(answer, waiting_since);\n"
        "    end loop;\nend;\n"
    )
    title = step.name.replace("\n", " ")
    # Over a direct connection a call may take as long as it likes. Set for each step, since steps reset the session.
    before = "set statement_timeout = 0;\n" if online else ""
    return f"-- {title}\n{before}do {dollar_quote(body)};\n"


def _later(migration: Migration, step: Step) -> str:
    """The argument with the steps that follow, for the rehearsal of a copy."""
    later = migration.steps[migration.steps.index(step) + 1 :]
    texts = [{"step": one.name, **one.as_sent, "calls": sorted(one.calls)} for one in later]
    return f",\n            later => {dollar_quote(json.dumps(texts))}"


def _write(path: Path, text: str) -> Path:
    """Replace a file atomically: whoever reads it sees the old text or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # tempfile's would be 0600 under any umask
    try:
        try:
            with temporary.open("x", encoding="utf-8", newline="") as file:  # a string keeps its line ends
                file.write(text)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise MigrationError(
            f"{path} cannot be written: {error.strerror or error}.",
            hint="Make the folder writable, free some space, and run the same command again.",
        ) from error
    return path
