-- Takes the private schema away: the journal, and with it the way back by rollback. Tables of the application, backups
-- among them, are not touched.
drop schema if exists rpc_migrations cascade;
