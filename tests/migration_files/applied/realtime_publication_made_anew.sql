create publication pp for table orders, audit with (publish = 'insert');
alter publication pp set table orders (id, status) where (total > 1);
drop publication if exists pp;
drop publication supabase_realtime;
create publication supabase_realtime with (publish = 'insert, update, delete, truncate');
alter publication supabase_realtime add table orders;
do $$ begin alter publication supabase_realtime add table orders; exception when duplicate_object then null; end $$;
