"""Deploys the database function execute_sql."""

import sys

from rpc_migrations import cli

if __name__ == "__main__":
    sys.exit(cli.deploy())
