create function next_number(a int) returns int
language sql
begin atomic
    select a;
    select case when a > 0 then a + 1 else case a when 0 then 1 end end;
end;
create procedure archive(old int)
begin atomic
    update orders set status = 'sent' where id = old;
    insert into audit (what) values ('archived');
end;
create function half(a int) returns numeric return a / 2.0;
call archive(1);
