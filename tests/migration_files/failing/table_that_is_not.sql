insert into audit (what) values ('undone');
select * from nowhere;
