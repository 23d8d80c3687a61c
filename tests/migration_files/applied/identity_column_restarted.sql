alter table audit alter column id restart with 500;
insert into audit (what) values ('after restart');
