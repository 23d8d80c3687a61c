insert into audit (what) values ('same'), ('same');
create unique index on audit (what);
