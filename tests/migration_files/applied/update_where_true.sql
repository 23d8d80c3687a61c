update orders set status = 'paid' where true;
delete from audit where true;
