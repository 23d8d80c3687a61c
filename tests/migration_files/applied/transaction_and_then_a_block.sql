-- What comes first, commit; and then
begin;

create table a (id int);

/* commit; */ commit; -- done

do $$
begin
    insert into a values (1);
    raise notice 'Migration completed successfully';
end $$;
