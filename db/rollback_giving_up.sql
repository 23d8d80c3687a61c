-- Gives up a rollback that has begun and has not put the original table back: the migrated table stays in use. The rows that lost
-- their parents in the meantime are deleted from the backup, as its foreign keys would have done.


-- step: roll back: give it up
select * from rpc_migrations.give_up_rollback();


-- step: roll back: validate the foreign keys of the backup (batch)
select * from rpc_migrations.validate_foreign_keys();
