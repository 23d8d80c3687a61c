-- Rolls back a migration that rebuilt a table, and keeps what was written since. Before the swap it just removes the copy,
-- and the later steps have nothing to do. After it the original table, which is the backup, is brought up to date while
-- the application goes on, and put back in its place in one short transaction.


-- step: roll back: begin
select * from rpc_migrations.begin_rollback();


-- step: roll back: find what changed since the swap (batch)
select * from rpc_migrations.find_changes();


-- step: roll back: bring the changes into the original table (batch)
select * from rpc_migrations.replay();


-- step: roll back: compare the two tables
select * from rpc_migrations.compare();


-- step: roll back: swap the tables back (batch)
select * from rpc_migrations.swap_back();


-- step: roll back: validate the foreign keys (batch)
select * from rpc_migrations.validate_foreign_keys();
