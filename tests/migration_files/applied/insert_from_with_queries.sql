with added as (insert into audit (what) values ('from a cte') returning what)
insert into audit (what) select what || '!' from added;
