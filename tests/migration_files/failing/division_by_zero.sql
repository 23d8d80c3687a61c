select 1 / (select count(*) from nowhere_rows where false)
from (values (1)) as nowhere_rows;
select 1 / 0;
