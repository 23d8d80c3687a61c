"""Takes execute_sql and the private schema away again."""

import sys

from rpc_migrations import cli

if __name__ == "__main__":
    sys.exit(cli.remove())
