create type public.floatrange as range (subtype = float8, subtype_diff = float8mi);
create table ranges (r public.floatrange);
insert into ranges values ('[1.5, 2.5)');
