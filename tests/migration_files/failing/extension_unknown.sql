create table kept (id int);
create extension no_such_extension;
