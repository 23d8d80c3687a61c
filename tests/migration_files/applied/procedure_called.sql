create procedure add_audit(what text) language plpgsql as $$
begin
    insert into public.audit (what) values (add_audit.what);
end $$;
call add_audit('one');
call add_audit('two; three');
