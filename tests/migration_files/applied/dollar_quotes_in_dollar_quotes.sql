create function public.outer_f() returns text language plpgsql as $outer$
declare q text := $q$ select $$inner 'quoted'$$ || $a1$; -- not end $$ $a1$ $q$; r text;
begin execute q into r; return r || $$ /* $$; end $outer$;
insert into audit (what) select public.outer_f();
do $do$ begin execute $x$ create function public.gen() returns int language sql as $y$ select 1; $y$ $x$; end $do$;
/* outer /* inner ; ' */ still $$ ; */ insert into audit (what) values ('after nested');
select 1 /* a ' b */ -- c ' d
;
