declare c cursor for select id from orders order by id;
fetch 1 from c;
close c;
