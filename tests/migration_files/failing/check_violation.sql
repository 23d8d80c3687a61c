alter table orders add constraint impossible check (total < 0);
