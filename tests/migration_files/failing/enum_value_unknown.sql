update orders set kind = 'unheard of' where id = 1;
