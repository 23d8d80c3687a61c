"""The SQL files that are written: what is in them, and that they are never half written."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

import pglast
import pytest
from conftest import ROOT
from rpc_migrations import output_files
from rpc_migrations.deployment import current_version, opening_sql
from rpc_migrations.errors import MigrationError
from rpc_migrations.migration import Migration
from rpc_migrations.sql_text import split
from rpc_migrations.step_file import read_migration

HOSTILE = """-- step: it's a "name"; commit; -- $step$
select '$step$', $step1$ text $step1$, 'it''s', E'\\\\';

-- step: second (batch)
select true as done -- $step
"""

OWN_SESSION = [*["VariableSet"] * 4, "Do"]  # how names are looked up, and texts read; and as whom


@pytest.fixture
def db(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that files are written to."""
    monkeypatch.setattr(output_files, "PROJECT_ROOT", tmp_path)
    monkeypatch.setattr(output_files, "DEPLOY_FILE", tmp_path / "db" / "create_execute_sql_function_output.sql")
    (tmp_path / "db").mkdir()
    return tmp_path / "db"


@pytest.fixture
def hostile(tmp_path: Path) -> Migration:
    """A step file that wants to break out of its quotes."""
    path = tmp_path / "hostile.sql"
    path.write_text(HOSTILE)
    return read_migration(path)


@pytest.fixture
def clusters() -> Migration:
    """The migration of the project."""
    return read_migration(ROOT / "db" / "migrate_user_clusters.sql")


def statements(text: str) -> list[str]:
    """What kind of statement follows what, as PostgreSQL's own parser sees it."""
    kinds = []
    without_psql = re.sub(r"^\\.*", "", text.replace("\n\\gset", ";"), flags=re.MULTILINE).replace(":'PORT'", "''")
    for raw in pglast.parse_sql(without_psql):
        statement = raw.stmt
        kind = type(statement).__name__.removesuffix("Stmt")
        kinds.append(statement.kind.name if kind == "Transaction" else kind)
    return kinds


def test_the_migration_is_one_transaction_with_one_statement_a_step(clusters: Migration, hostile: Migration) -> None:
    for migration in (clusters, hostile):
        text = output_files.migration_sql(migration.name, [migration])
        do = ["Do"] * (1 + len(migration.steps))  # the first one asks whether execute_sql is there
        assert statements(text) == ["TRANS_STMT_BEGIN", *OWN_SESSION, *do, "TRANS_STMT_COMMIT", "Select"]
        assert all(one.sql in text for step in migration.steps for one in split(step.sql))
        assert all(step.checksums[0] in text for step in migration.steps)


def test_online_it_is_no_transaction_and_commits_between_calls(clusters: Migration, hostile: Migration) -> None:
    for migration in (clusters, hostile):
        text = output_files.migration_sql(migration.name, [migration], online=True)
        # The port, the transaction and the session first; then, for each step, its timeout again.
        assert statements(text) == [
            "Select",
            "Do",
            "Do",
            *OWN_SESSION,
            "Do",
            *["VariableSet", "Do"] * len(migration.steps),
        ]
        assert text.count("        commit;\n") == len(migration.steps)
        assert "\\set ON_ERROR_STOP on" in text


def test_the_function_is_made_in_one_transaction(db: Path) -> None:
    text = output_files.write_deployment(opening_sql(None, keep_texts=False)).read_text()
    kinds = statements(text)
    assert (kinds[0], *kinds[-2:]) == ("TRANS_STMT_BEGIN", "TRANS_STMT_COMMIT", "Select")
    assert current_version() in text


def test_the_files_fit_into_the_sql_editor(clusters: Migration, db: Path) -> None:
    for path in (
        output_files.write_deployment(opening_sql(None, keep_texts=False)),
        output_files.write_migration(clusters.name, [clusters]),
    ):
        assert path.stat().st_size < 1_000_000, "about 1 MB a paste"
        assert path.read_text().startswith("-- "), "a person reads what it is"


@pytest.mark.parametrize(
    ("prefix", "online", "name"),
    [
        ("", False, "migrate_user_clusters_output.sql"),
        ("", True, "migrate_user_clusters_online_output.sql"),
        ("rollback_", False, "rollback_migrate_user_clusters_output.sql"),
    ],
)
def test_files_are_named_after_what_they_do(
    clusters: Migration, db: Path, prefix: str, online: bool, name: str
) -> None:
    assert output_files.write_migration(clusters.name, [clusters], prefix=prefix, online=online) == db / name


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_file_is_replaced_whole_and_read_by_whom_the_umask_lets(
    clusters: Migration, db: Path, mask: int, mode: int
) -> None:
    """A migration may have secrets in it."""
    before = os.umask(mask)
    try:
        path = output_files.write_migration(clusters.name, [clusters])
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    whole = path.read_text()
    path.write_text(whole + "x" * 100_000)
    assert output_files.write_migration(clusters.name, [clusters]) == path
    assert path.read_text() == whole
    assert [file.name for file in db.iterdir()] == [path.name]


@pytest.mark.parametrize("stage", ["write", "replace"])
def test_a_failure_leaves_the_old_text_and_nothing_else(
    clusters: Migration, db: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    path = output_files.write_migration(clusters.name, [clusters])
    path.write_text("old")

    unpatched = Path.open

    def full(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if stage == "replace" or mode == "x":
            raise OSError(28, "No space left on device")
        return unpatched(path, mode, *rest, **named)

    monkeypatch.setattr(Path, "replace" if stage == "replace" else "open", full)
    with pytest.raises(MigrationError, match="No space left on device") as error:
        output_files.write_migration(clusters.name, [clusters])
    assert error.value.hint
    assert path.read_text() == "old"
    assert [file.name for file in db.iterdir()] == [path.name]
