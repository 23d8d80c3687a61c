"""Checks what the migration of user_clusters has made."""

import sys

from rpc_migrations import cli

if __name__ == "__main__":
    sys.exit(cli.verify_clusters())
