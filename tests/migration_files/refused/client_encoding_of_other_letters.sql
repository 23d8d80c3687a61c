-- refused: line 2: client_encoding = 'LATIN1'
SET client_encoding = 'LATIN1';
insert into audit (what) values ('é');
