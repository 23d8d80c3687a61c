-- refused: line 3: savepoint
insert into audit (what) values ('a');
savepoint before_it;
insert into audit (what) values ('b');
rollback to savepoint before_it;
