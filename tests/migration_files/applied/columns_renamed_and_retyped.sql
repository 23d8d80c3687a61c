alter table orders rename column total to amount;
alter table orders alter column amount type numeric(12, 2) using round(amount, 2), alter column amount set default 0;
update orders set amount = 1 where amount is null;
