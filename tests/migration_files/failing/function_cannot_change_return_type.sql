create function one() returns int language sql as 'select 1';
create or replace function one() returns text language sql as 'select ''1''';
