"""Closes the way back when the migration of user_clusters is over."""

import sys

from rpc_migrations import cli

if __name__ == "__main__":
    sys.exit(cli.finish_clusters())
