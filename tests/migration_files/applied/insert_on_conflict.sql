insert into profiles (id, name) values ('00000000-0000-0000-0000-000000000001', 'Again')
on conflict (id) do update set name = excluded.name;
insert into profiles (id, name) select id, name from profiles on conflict do nothing;
