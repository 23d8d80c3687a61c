"""Runs any step file, or takes it back."""

import sys

from rpc_migrations import cli

if __name__ == "__main__":
    sys.exit(cli.run_migration())
