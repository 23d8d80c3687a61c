"""A local Supabase for demo, tests and benchmarks: an embedded PostgreSQL and, in front of it, the HTTP API.

`Cluster` is the database server, `Database` one database of it made the way Supabase makes one,
`LocalSupabase` the HTTP side: a gateway that asks for API keys, `/rest/v1`, `/pg/query` and the Management
API's query endpoint.
"""

from __future__ import annotations

from local_supabase.database import Cluster, Database
from local_supabase.sample import create_old_table
from local_supabase.server import LocalSupabase

__all__ = ["Cluster", "Database", "LocalSupabase", "create_old_table"]
