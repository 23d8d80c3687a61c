insert into audit (what)
select format('row %s; of %s', n, 'many')
from generate_series(1, 5000) as n;
