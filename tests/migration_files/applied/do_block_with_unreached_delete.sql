-- pg-safeupdate refuses a DELETE without WHERE when it runs, and this one never does.
do $$ begin if false then delete from public.orders; end if; end $$;
