create function greet(name text) returns text language sql as $$ select 'hello ' || name $$;
create function greet(name text, loud boolean) returns text language sql as $$ select upper(greet(name)) $$;
create or replace function greet(name text) returns text language sql as $$ select 'hi ' || name $$;
drop function greet(text, boolean);
