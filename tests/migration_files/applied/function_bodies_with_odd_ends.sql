create function public.ff(a int[] default array[1,2]) returns int[] language sql as $_$ select $1[1:2] $_$;
create function public."we;ird"() returns int language sql return 1;
create function public.withcase(x int) returns text begin atomic select case x when 1 then 'a' else (select case when true then 'e' end) end; select 'z' as "end"; end;
