"""Migrates user_clusters and creates prompt_refinements."""

import sys

from rpc_migrations import cli

if __name__ == "__main__":
    sys.exit(cli.migrate_clusters())
