create table t (a integer, b text, a_twice integer generated always as (a * 2) stored);
create table log (done text);
create function noted() returns trigger language plpgsql as $$
begin
    insert into log values (tg_table_name);
    return null;
end
$$;
create trigger noted after insert on t for each statement execute function noted();
copy t from stdin;
1	one
2	\N
\.
-- A statement all the same, for its trigger.
copy t (b, a) from stdin;
\.
