-- A comment before it.
begin transaction;
create table wrapped (id int);
/* and before the end */
end transaction;
-- and behind it
