"""Writes a migration file to be edited."""

import sys

from rpc_migrations import cli

if __name__ == "__main__":
    sys.exit(cli.new_migration())
