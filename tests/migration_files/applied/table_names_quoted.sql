create table "Order Items" ("select" int, "has;semicolon" text, "has""quote" text, "has'apostrophe" text);
insert into "Order Items" values (1, 'a', 'b', 'c');
comment on table "Order Items" is 'it''s; quoted';
