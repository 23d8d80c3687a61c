create procedure public.pc() language plpgsql as $$ begin insert into audit (what) values ('c'); commit; end $$;
call public.pc();
