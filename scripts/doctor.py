"""Checks everything before anything is changed."""

import sys

from rpc_migrations import cli

if __name__ == "__main__":
    sys.exit(cli.doctor())
