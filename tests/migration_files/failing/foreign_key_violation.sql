insert into orders (user_id, total) values ('00000000-0000-0000-0000-00000000dead', 1);
