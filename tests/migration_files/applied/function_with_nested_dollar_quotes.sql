create function public.make_function() returns void language plpgsql as $outer$
begin
    execute $inner$ create or replace function public.made() returns text language sql as $q$ select ';$$;'; $q$ $inner$;
end
$outer$;
select public.make_function();
create table made_by as select public.made() as text;
