creat table oops (id int);
