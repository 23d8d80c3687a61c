insert into audit (what) values ('fine');
insert into audit (what) values ('open);
insert into audit (what) values (1);
