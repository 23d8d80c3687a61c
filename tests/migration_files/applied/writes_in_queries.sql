with recursive t(n) as (values (1) union all select n + 1 from t where n < 5), ins as (insert into audit (what) select n::text from t returning *), upd as (update orders set status = 'cte' where id in (select 1) returning *) select count(*) from ins, upd;
insert into audit (what) select what from audit on conflict do nothing returning id;
delete from audit using orders where audit.what = orders.status returning audit.*;
update orders o set status = x.s from (select 1 as id, 'u' as s) x where o.id = x.id;
