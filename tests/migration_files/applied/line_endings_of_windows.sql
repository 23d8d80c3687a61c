create table dos (id int);

insert into dos
values (1);
-- a comment;
do $$
begin
    perform 1;
end
$$;
