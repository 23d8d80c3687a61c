do $$ begin null; end $$;
do $x$ begin null; end $$;
select 1;
