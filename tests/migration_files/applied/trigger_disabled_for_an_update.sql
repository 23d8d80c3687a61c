create function no() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
create trigger orders_no before update on orders for each row execute function no();
alter table orders disable trigger orders_no;
update orders set total = total + 1 where id = 1;
alter table orders enable trigger orders_no;
