"""Runs SQL migrations on Supabase over HTTPS, each step exactly once.

Data flows one way: settings -> client -> runner -> console. The entry points beside this package only say which
command they are.
"""

import os
import sys

# This file must be readable by any Python, even one too old for the modules.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(
        "Error: this needs Python 3.11 or newer, and runs on %d.%d. Run it with a newer one: python3.12 %s"  # noqa: UP031
        % (sys.version_info[0], sys.version_info[1], sys.argv[0])
    )

from importlib.util import find_spec

_show = sys.excepthook


def _show_but_interrupts(kind, error, trace):  # type: ignore[no-untyped-def]
    """Ctrl-C while nothing of ours handles it yet, as during the imports, is not a bug: no traceback."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("Interrupted.\n")
    else:
        _show(kind, error, trace)


sys.excepthook = _show_but_interrupts

_missing = [name for name in ("rich", "dotenv") if find_spec(name) is None]
if _missing:
    # Outside of it they are missing, and a system's Python often refuses to install any.
    _environment = os.path.join(".venv", "bin", "activate")
    _is_there = os.path.exists(os.path.join(os.path.dirname(__file__), "..", "..", _environment))
    _install = "python -m pip install -r requirements.txt"
    sys.exit(
        "Error: a Python package is missing (%s). Run: %s"  # noqa: UP031
        % (", ".join(_missing), ". " + _environment if _is_there and sys.prefix == sys.base_prefix else _install)
    )
