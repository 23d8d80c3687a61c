create table small (n smallint);
insert into small values (1), (40000);
