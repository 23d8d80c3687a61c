create table short (s varchar(3));
insert into short values ('four');
