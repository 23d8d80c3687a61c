-- Rolls back a migration that rebuilt a table, to the data as it was at the swap. What was added, changed and deleted since
-- is counted first, and remains only in the migrated table, which is kept under another name.


-- step: roll back: count the changes to discard
select * from rpc_migrations.begin_rollback(discard_changes => true);


-- step: roll back: swap the tables back without the changes (batch)
select * from rpc_migrations.swap_back(discard_changes => true);


-- step: roll back: validate the foreign keys (batch)
select * from rpc_migrations.validate_foreign_keys();
