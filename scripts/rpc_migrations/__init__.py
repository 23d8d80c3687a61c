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
from shlex import quote

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
    _own_python = os.path.relpath(os.path.join(os.path.dirname(__file__), "..", "..", ".venv", "bin", "python"))
    _advice = "python -m pip install -r requirements.txt"
    if os.path.exists(_own_python) and sys.prefix == sys.base_prefix:
        _advice = " ".join(quote(word) for word in [_own_python, *sys.argv])  # in every shell, from every folder
    sys.exit("Error: a Python package is missing (%s). Run: %s" % (", ".join(_missing), _advice))  # noqa: UP031
