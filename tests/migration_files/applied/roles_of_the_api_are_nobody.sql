-- Nobody calls over the API when a file is run by psql.
create table public.entries (
    id integer primary key, role text default auth.role(), who uuid default auth.uid(), claims text default auth.jwt() ->> 'role',
    of_postgrest text default current_setting('request.jwt.claims', true)::json ->> 'role'
);
insert into public.entries (id) values (1);

create function public.not_from_the_api() returns trigger language plpgsql as $$
begin
    if auth.role() = 'service_role' then
        raise exception 'the status is not set by a service' using errcode = '42501';
    end if;
    return new;
end;
$$;
create trigger not_from_the_api before update of status on public.orders
for each row execute function public.not_from_the_api();
update public.orders set status = 'seen' where id = 1;
