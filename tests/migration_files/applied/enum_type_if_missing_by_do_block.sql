do $$ begin
    create type public.user_role as enum ('admin', 'member');
exception
    when duplicate_object then null;
end $$;
create table members (role public.user_role not null default 'member');
