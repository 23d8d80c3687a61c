"""Takes the migration of user_clusters back."""

import sys

from rpc_migrations import cli

if __name__ == "__main__":
    sys.exit(cli.rollback_clusters())
