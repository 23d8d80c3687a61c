create function f() returns text language plpgsql as $$
declare s text := 'end; $x$ -- not a comment /* nor this */';
begin
    return s;
end $$;
create table f_result as select f();
