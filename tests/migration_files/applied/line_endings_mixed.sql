-- One string with the line ends of Windows in a file without, as a paste leaves it.
create table pasted (body text);
insert into pasted values ('one
two
three');
create function pasted_body() returns text language sql as $$
    select 'a
b'
$$;
