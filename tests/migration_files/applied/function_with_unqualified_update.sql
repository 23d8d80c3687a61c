-- Defined, not run: nobody looks into the body of a PL/pgSQL function before it runs.
create function reset_all() returns void language plpgsql as $$ begin update public.orders set total = 0; end $$;
