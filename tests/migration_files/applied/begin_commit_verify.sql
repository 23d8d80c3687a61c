-- Verifying queries behind the COMMIT only read: what they find is told by psql, and nothing depends on when they run.
begin;
create table public.checked (id integer primary key, name text);
insert into public.checked values (1, 'a'), (2, 'b');
commit;

-- Verify
select count(*) from public.checked;
select table_name from information_schema.tables where table_name = 'checked';
show search_path;
explain (costs off) select * from public.checked;
