create table ranked as
select id, rank() over (partition by user_id order by total desc) as place, sum(total) filter (where status = 'open') over w as running
from orders
window w as (order by id rows between unbounded preceding and current row);
