alter table audit owner to postgres;
alter table audit rename to audit_log;
alter index audit_pkey rename to audit_log_pkey;
insert into audit_log (what) values ('renamed');
