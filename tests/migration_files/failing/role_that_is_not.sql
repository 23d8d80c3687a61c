grant select on orders to nobody_there;
