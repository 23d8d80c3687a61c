create table ff (id int);
insertinto ff values (1);
