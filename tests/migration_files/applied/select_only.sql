select 1;
select count(*) from orders;
