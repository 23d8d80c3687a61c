create table animals (name text);
create table dogs (breed text) inherits (animals);
insert into dogs values ('Rex', 'mutt');
