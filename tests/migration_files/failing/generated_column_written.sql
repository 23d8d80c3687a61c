create table g (a int, b int generated always as (a * 2) stored);
insert into g values (1, 2);
