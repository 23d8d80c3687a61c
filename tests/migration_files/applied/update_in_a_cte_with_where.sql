with paid as (update orders set status = 'paid' where id = 1 returning id), gone as (delete from orders where id = 2 returning id)
insert into audit (what) select 'paid ' || id from paid union all select 'gone ' || id from gone;
