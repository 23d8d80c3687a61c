create function f(a int) returns int language sql as 'select 1';
create function f(a bigint) returns int language sql as 'select 2';
drop function f;
