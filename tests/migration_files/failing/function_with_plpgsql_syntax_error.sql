create function broken() returns int language plpgsql as $$
begin
    retrun 1;
end $$;
