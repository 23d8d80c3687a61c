insert into profiles (id, name) values ('00000000-0000-0000-0000-000000000009', 'new');
insert into profiles (id, name) values ('00000000-0000-0000-0000-000000000001', 'there already');
