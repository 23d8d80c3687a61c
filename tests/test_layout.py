"""How the project is laid out: the engine's modules use each other in one direction, and README knows every room."""

from __future__ import annotations

import ast
import re
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

SCRIPTS = ROOT / "scripts"
PACKAGE = "rpc_migrations"


def module_name(path: Path, root: Path) -> str:
    """A module's full name, by its path."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, modules: dict[str, Path], root: Path) -> set[str]:
    """Which of the modules a file imports, wherever in it the import stands: also those for the type checker alone."""
    name = module_name(path, root)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*parents, *([node.module] if node.module else [])])
            found |= {full if (full := f"{source}.{alias.name}") in modules else source for alias in node.names}
    return found & modules.keys()


def import_graph(root: Path) -> dict[str, set[str]]:
    """What each module of the package under `root` imports of it."""
    modules = {module_name(path, root): path for path in (root / PACKAGE).rglob("*.py")}
    return {name: imported(path, modules, root) for name, path in modules.items()}


def test_nothing_imports_in_a_circle() -> None:
    graph = import_graph(SCRIPTS)
    assert "rpc_migrations.client" in graph["rpc_migrations.runner"]
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("from .b import x", "from . import a"),
        ("import rpc_migrations.b", "from .a import y"),
        ("from .sub.c import z", "from .a import y"),
        ("from .sub.c import z", "def later():\n    from rpc_migrations import a"),
    ],
)
def test_a_circle_is_found(tmp_path: Path, one: str, other: str) -> None:
    sub = tmp_path / PACKAGE / "sub"
    sub.mkdir(parents=True)
    for folder in (sub, sub.parent):
        (folder / "__init__.py").touch()
    (sub.parent / "a.py").write_text(one)
    (sub.parent / "b.py").write_text(other)
    (sub / "c.py").write_text("from ..b import x")
    with pytest.raises(CycleError):
        list(TopologicalSorter(import_graph(tmp_path)).static_order())


def files_of_a_room(pattern: str) -> list[Path]:
    """The files that a path in the map stands for: a file, those of a pattern, or all below a folder."""
    found = ROOT.glob(f"{pattern}**/*" if pattern.endswith("/") else pattern)
    return [path for path in found if path.is_file() and not is_made(path)]


def is_made(path: Path) -> bool:
    """Whether a file is written by a program, or hidden."""
    parts = path.relative_to(ROOT).parts
    return path.name.endswith("_output.sql") or any(part.startswith((".", "__pycache__")) for part in parts)


def test_the_map_of_the_rooms_has_every_file_once() -> None:
    readme = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    table = readme.split("## Where everything is")[1].split("\n## ")[0]
    rooms = {
        room: files_of_a_room(room)
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for room in re.findall(r"`(.*?)`", row)
    }
    assert [room for room, files in rooms.items() if not files] == [], "in tests/README.md, and not there"
    times = Counter(path for files in rooms.values() for path in files)
    there = {path for folder in ("scripts", "db", "tests") for path in files_of_a_room(f"{folder}/")}
    assert sorted(str(path.relative_to(ROOT)) for path in there - times.keys()) == [], "not in tests/README.md"
    assert [path for path, number in times.items() if number > 1] == [], "twice in tests/README.md"


def test_no_two_test_files_have_one_name() -> None:
    """pytest imports them by that, and takes the second one for the first."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
