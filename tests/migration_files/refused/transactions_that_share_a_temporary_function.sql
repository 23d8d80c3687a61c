-- refused: line 3: begin
create function pg_temp.note(what text) returns void language sql as $$ insert into audit (what) values ($1) $$;
begin;
select pg_temp.note('a');
commit;
begin;
select pg_temp.note('b');
commit;
