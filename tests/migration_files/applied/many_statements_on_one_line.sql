create table x (a int);insert into x values (1);insert into x values (2);update x set a = a + 1 where a = 1;create index on x (a);
