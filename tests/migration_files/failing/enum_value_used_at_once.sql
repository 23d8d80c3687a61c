alter type order_kind add value 'gift';
insert into orders (user_id, total, kind) values ('00000000-0000-0000-0000-000000000001', 1, 'gift');
