create table public.messages (id int primary key, body text);
alter publication supabase_realtime add table public.messages;
alter table public.messages replica identity full;
