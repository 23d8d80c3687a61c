select id, total into temp table cheap from orders where total < 50;
insert into public.audit (what) select id::text from cheap;
with recent as (select id, status from orders)
select *
into /* a comment */ public."Kept Orders"
from recent where status <> 'into x';
SELECT * INTO UNLOGGED public . copied FROM "Kept Orders" UNION ALL SELECT 0, (select 'from into nowhere');
select into empty_one from orders;
with made as (insert into public.audit (what) values ('by a query') returning id) select count(*) from made;
with source as (select 'later' as what) insert into public.audit (what) select what from source;
