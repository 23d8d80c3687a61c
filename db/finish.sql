-- Closes the way back of a migration that rebuilt a table: drops the original table, which is the backup, and the migrated ones that
-- rollbacks have kept. The table in use is not touched.


-- step: close the way back: drop what was kept for it (batch)
select * from rpc_migrations.finish();
