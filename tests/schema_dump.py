"""What pg_dump writes of a database's definitions, in a form that can be compared."""

from __future__ import annotations

from local_supabase import Database

# What a migration and its rollback leave behind, as README says.
LEFTOVERS = ("--exclude-schema=rpc_migrations", "--exclude-table=public.prompt_refinements")
KEPT_TABLES = """
select case c.state when 'rolled back' then c.new_table else c.old_table end::regclass::text
from rpc_migrations.copies as c where c.state in ('swapped', 'rolling back', 'rolled back')
"""
LEFTOVER_FUNCTIONS = ("public.execute_sql", "public.set_user_clusters_updated_at")


def dump_schema(database: Database) -> list[str]:
    """The statements of `pg_dump --schema-only`, sorted, without comments, settings and the documented leftovers.

    Those are, besides the lists above, the tables that were put aside; nothing else is left out.
    """
    with database.connect("supabase_admin") as connection:
        connection.execute("set search_path = ''")
        journal = connection.execute("select to_regclass('rpc_migrations.copies')").fetchone() != (None,)
        kept_tables = [row[0] for row in connection.execute(KEPT_TABLES).fetchall() if row[0]] if journal else []
    text = database.dump_schema(*LEFTOVERS, *(f"--exclude-table={name}" for name in kept_tables))
    blocks = text.split("\n--\n-- ")  # each statement, or each few that belong together, has a heading
    kept = []
    for block in blocks[1:]:
        heading, _, body = block.partition("\n--\n")
        statements = "\n".join(line for line in body.splitlines() if line and not line.startswith(("SET ", "\\")))
        if statements and not any(name in statements for name in LEFTOVER_FUNCTIONS) and "complete" not in heading:
            kept.append(statements)
    return sorted(kept)
