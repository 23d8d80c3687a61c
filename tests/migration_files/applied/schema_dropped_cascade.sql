create schema gone;
create table gone.t (id int);
create view public.on_gone as select * from gone.t;
drop schema gone cascade;
