create function concat_two(a text, b text) returns text language sql immutable as $$ select coalesce(a, '') || b $$;
create aggregate joined(text) (sfunc = concat_two, stype = text);
create operator <+> (function = concat_two, leftarg = text, rightarg = text);
create table joined_up as select joined(w) as a, 'x' <+> 'y' as b from (values ('a'), ('b')) as v (w);
