select 1;
select 2;
insert into nowhere
values (1);
