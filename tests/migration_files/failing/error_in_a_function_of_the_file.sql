create function bad() returns int language plpgsql as $$
begin
    return 1 / 0;
end $$;
select bad();
