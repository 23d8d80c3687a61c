"""The commands, one function each: it takes the options of its command line, and returns an exit code or raises
MigrationError. cli.py says which command the options ask for.
"""

from __future__ import annotations

from .checks import doctor, verify
from .execute_sql import deploy, remove
from .folder import plan as plan_folder
from .folder import run as run_folder
from .folder import status as status_of_folder
from .migration import finish, plan, roll_back, run, status, write
from .new import new_migration

__all__ = [
    "deploy", "doctor", "finish", "new_migration", "plan", "plan_folder", "remove", "roll_back", "run", "run_folder", "status", "status_of_folder", "verify", "write",
]  # fmt: skip
