"""Where the project is, and how messages name its files and commands: so that they hold in the folder where they are read."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def from_here(path: Path) -> str:
    """A path as it is reached from the current folder: short for what is in that, else whole."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):  # elsewhere; or the current folder was deleted
        return str(path)


def as_argument(path: str) -> str:
    """A path within a command that is to be pasted, also where there is a blank in it."""
    return path if re.fullmatch(r"[\w./\\:+-]+", path) else f'"{path}"'


def _python() -> str:
    """The Python that such commands begin with. Outside of an environment that nobody has entered, as of the one that make has made and
    runs, there may be no `python`, or another one.
    """
    entered = os.environ.get("VIRTUAL_ENV")
    is_entered = entered is not None and Path(entered).resolve() == Path(sys.prefix).resolve()
    return "python" if is_entered or sys.prefix == sys.base_prefix else as_argument(from_here(Path(sys.executable)))


def command(script: str) -> str:
    """The command that runs a script of this project."""
    return f"{PYTHON} {as_argument(from_here(PROJECT_ROOT / 'scripts' / script))}"


PYTHON = _python()
DEPLOY_COMMAND = command("deploy_sql_function.py")  # the next step of many errors
LAST_RESORT = f"Check everything, and change nothing: {command('doctor.py')}"  # where nothing better is known


def run_command(path: Path) -> str:
    """The command that runs a migration file."""
    return f"{command('run_migration.py')} {as_argument(str(path))}"
