do $$
begin
    insert into public.profiles (id) values ('00000000-0000-0000-0000-000000000001');
exception when unique_violation then
    raise notice 'there already; %', sqlerrm;
end $$;
insert into audit (what) values ('went on');
