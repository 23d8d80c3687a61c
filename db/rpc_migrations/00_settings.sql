-- With which settings the SQL of this project runs outside of execute_sql: in a deployment, and in the files that are written for the
-- SQL Editor and psql. (execute_sql sets the same for what it runs: see 02_session.sql.)

-- Nothing that others made, in public or in this session, is found by a name without a schema.
set local search_path = pg_catalog, pg_temp;
-- A database may have other settings for these, and would then read strings and write names differently.
set local standard_conforming_strings = on;
set local array_nulls = on;
set local quote_all_identifiers = off;
