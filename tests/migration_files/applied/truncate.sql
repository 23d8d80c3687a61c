truncate table audit restart identity cascade;
insert into audit (what) values ('first again');
