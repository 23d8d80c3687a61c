start transaction read write not deferrable;
create table as_usual_too (id int);
end transaction and no chain;
