insert into orders (user_id, total) values ('not a uuid', 1);
