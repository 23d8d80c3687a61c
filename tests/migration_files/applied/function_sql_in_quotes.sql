create function add_one(a int) returns int language sql immutable as 'select a + 1; -- it''s; one';
create table results as select add_one(1) as n;
