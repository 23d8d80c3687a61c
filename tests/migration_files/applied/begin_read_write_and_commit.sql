-- What it says of the transaction is what a step is.
begin transaction isolation level read committed, read write;
create table as_usual (id int);
commit;
