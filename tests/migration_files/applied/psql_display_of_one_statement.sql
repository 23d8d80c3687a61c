-- One statement, with what psql prints on its line and in front of it.
  \echo making it
create table public.one_statement (id bigint primary key); \d public.one_statement
