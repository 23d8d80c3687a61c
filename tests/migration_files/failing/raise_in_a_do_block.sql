create table half (id int);
do $$
begin
    insert into half values (1);
    raise exception 'stop here; %', 1 using errcode = 'P0042', hint = 'a hint', detail = 'a detail';
end $$;
