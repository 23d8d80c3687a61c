insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types) values ('avatars', 'avatars', true, 5242880, array['image/png','image/*']) on conflict (id) do update set public = excluded.public;
create policy "Avatar images are public" on storage.objects for select using (bucket_id = 'avatars');
create policy "Own folder" on storage.objects for insert to authenticated with check (bucket_id = 'avatars' and (storage.foldername(name))[1] = auth.uid()::text);
drop policy if exists "Own folder" on storage.objects;
update storage.buckets set public = false where id = 'avatars';
alter table storage.objects enable row level security;
