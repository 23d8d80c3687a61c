insert into audit (what) values ('a task') returning id, what as title, false as done;
