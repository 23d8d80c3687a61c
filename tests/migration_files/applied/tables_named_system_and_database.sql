-- Words that make a REINDEX one of many tables, in the names of some.
create schema audit_of;
create table audit_of.system (id integer primary key);
create table database (id integer primary key);
reindex table audit_of.system;
reindex (verbose) table database;
reindex index database_pkey;
