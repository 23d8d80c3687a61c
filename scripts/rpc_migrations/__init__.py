"""Runs SQL migrations on Supabase over HTTPS, each step exactly once.

Data flows one way: settings -> client -> runner -> console. The entry points beside this package only say which
command they are.
"""

import os
import sys

# What make, or README's commands, have made beside the scripts. Whoever runs them outside of it may have another Python, or no packages.
_own_python = os.path.join(os.path.dirname(__file__), "..", "..", ".venv", "bin", "python")
_is_entered = sys.prefix != getattr(sys, "base_prefix", sys.prefix)
_is_outside = os.path.exists(_own_python) and not _is_entered
_INSTALL = ".venv/bin/python -m pip install -r requirements.txt"

# This file must be readable by any Python, even one too old for the modules.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(
        "Error: this needs Python 3.11 or newer, and runs on %d.%d. %s"  # noqa: UP031
        % (
            sys.version_info[0],
            sys.version_info[1],
            "Run: %s %s" % (os.path.relpath(_own_python), sys.argv[0])  # noqa: UP031
            if _is_outside
            else "With a newer one, make the environment anew, in the project's folder:\n"
            "python3.12 -m venv --clear .venv && " + _INSTALL,
        )
    )

from importlib.util import find_spec  # noqa: E402
from shlex import quote  # noqa: E402

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
    # A system's Python often refuses to install any, and may be called python3 alone. The first two hold in every shell, from every folder.
    if _is_outside:
        _advice = "Run: %s" % " ".join(map(quote, [os.path.relpath(_own_python)] + sys.argv))  # noqa: RUF005, UP031
    elif _is_entered:
        _list = os.path.relpath(os.path.join(os.path.dirname(__file__), "..", "..", "requirements.txt"))
        _advice = "Run: %s -m pip install -r %s" % (quote(sys.executable), quote(_list))  # noqa: UP031
    else:
        _advice = "Make an environment, in the project's folder:\npython3 -m venv --clear .venv && " + _INSTALL
    sys.exit("Error: a Python package is missing (%s). %s" % (", ".join(_missing), _advice))  # noqa: UP031
