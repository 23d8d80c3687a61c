-- What pg-safeupdate refuses of an application means here what it says.
update orders set status = 'paid', total = (select max(total) from orders where id > 1) -- all of them
;
UPDATE public.orders as o SET status = v.status FROM (select 'sent' as status from audit where what <> 'x') as v RETURNING o.id;
with paid as (update orders set tags = '["a"]' returning id)
insert into audit (what) select 'paid ' || id from paid where id > 0;
create table gone (what text);
with old as materialized (delete from only audit as a returning a.what) insert into gone select what from old;
insert into audit (what) values ('again');
(with old as (delete from audit returning what) select * from old);
explain (analyze, costs off, timing off, summary off) delete from gone returning (select count(*) from orders where id = 1);
delete from public.team_members using teams;
