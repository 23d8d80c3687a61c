"""What every SQL file of the project must keep to."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT
from local_supabase.safeupdate import unqualified_writes

FILES = [path for path in sorted((ROOT / "db").rglob("*.sql")) if not path.name.endswith("_output.sql")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_write_has_a_where_clause(path: Path) -> None:
    """The API's sessions load safeupdate, which refuses others, inside functions as well."""
    assert unqualified_writes(path.read_text(encoding="utf-8")) == []


def test_a_write_without_one_is_found() -> None:
    assert unqualified_writes("create function f() returns void language sql as $$ delete from t $$") == ["DELETE"]
