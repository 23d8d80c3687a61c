-- Strings keep the line ends that the file has.
create table windows_strings (body text);
insert into windows_strings values ('one
two');

create function windows_body() returns text language plpgsql as $$
begin
    return 'a
b'; -- why
end
$$;
select windows_body();
