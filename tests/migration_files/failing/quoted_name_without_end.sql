create table "open (id int);
