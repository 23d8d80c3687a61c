create function public.bad() returns trigger language plpgsql as $$ begin insert into nowhere values (1); return new; end $$;
create trigger bad before insert on audit for each row execute function public.bad();
insert into audit (what) values ('x');
