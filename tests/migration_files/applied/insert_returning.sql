insert into audit (what) values ('x'), ('y') returning id, what;
