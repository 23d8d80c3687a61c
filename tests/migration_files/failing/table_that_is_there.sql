create table fresh (id int);
create table orders (id int);
create table never (id int);
