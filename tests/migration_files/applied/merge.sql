merge into orders as o using (values (1, 'sent'), (2, 'returned')) as v (id, status) on o.id = v.id
when matched and v.status = 'returned' then delete
when matched then update set status = v.status;
