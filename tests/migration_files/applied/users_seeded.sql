create or replace function public.handle_new_user() returns trigger language plpgsql security definer set search_path = '' as $$
begin
  insert into public.profiles (id, name) values (new.id, coalesce(new.raw_user_meta_data->>'full_name', split_part(new.email, '@', 1)))
  on conflict (id) do update set name = excluded.name;
  return new;
end; $$;
drop trigger if exists on_auth_user_created on auth.users;
create trigger on_auth_user_created after insert on auth.users for each row execute procedure public.handle_new_user();
insert into auth.users (id, email, encrypted_password, raw_app_meta_data, raw_user_meta_data, created_at) values ('00000000-0000-0000-0000-000000000009', 'x@example.com', extensions.crypt('pw', extensions.gen_salt('bf')), '{"provider":"email"}', '{}', '2024-01-01');
