insert into audit (what) values ('é before it');
SET client_encoding = 'LATIN1'; -- é in a comment
insert into audit (what) values ('e');
set names 'utf-8';
set session client_encoding to unicode;
insert into audit (what) values ('é');
set client_encoding = 'SQL_ASCII';
insert into audit (what) values ('é');
