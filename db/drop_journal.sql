-- Drops the private schema: the journal, and with it the way back. Tables of the application, backups among them, are not
-- touched.
drop schema if exists rpc_migrations cascade;
