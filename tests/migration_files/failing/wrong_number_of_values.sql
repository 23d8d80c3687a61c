insert into audit (id, what) overriding system value values (1, 'a'), (2);
