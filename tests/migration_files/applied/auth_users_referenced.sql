create table public.devices (
    user_id uuid references auth.users on delete set null,
    token text unique
);
insert into public.devices select id, 'token of ' || email from auth.users;
