-- step by step guide: this is a comment like any other
create table guide (step int, "-- step: two" text);
insert into guide values (1, '
-- step: in a string
'), (2, $$
-- step: in dollar quotes
$$);
/*
-- step: in a comment
*/
