create schema if not exists private authorization postgres;
create table private.keys (id int primary key, secret text);
revoke all on schema private from public;
grant usage on schema private to service_role;
insert into private.keys values (1, 'k');
