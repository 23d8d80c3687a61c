"""Runs SQL migrations on Supabase over HTTPS, each step exactly once.

Data flows one way: settings -> client -> runner -> console. The entry points beside this package only say which step
file they mean.
"""

import sys
from importlib.util import find_spec

if sys.version_info < (3, 11):  # noqa: UP036 - older ones cannot even read the modules
    sys.exit("Error: this needs Python 3.11 or newer, and runs on %d.%d." % sys.version_info[:2])  # noqa: UP031

if missing := [name for name in ("rich", "dotenv") if find_spec(name) is None]:
    sys.exit(
        f"Error: a Python package is missing ({', '.join(missing)}). Run: python -m pip install -r requirements.txt"
    )
