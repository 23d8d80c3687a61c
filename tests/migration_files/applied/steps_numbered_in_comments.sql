-- Step 1: create the table
create table numbered (id int);
-- Step 2: fill it
insert into numbered values (1);
