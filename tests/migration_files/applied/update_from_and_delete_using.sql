update orders o set status = 'paid' from profiles p where p.id = o.user_id and o.total > 10;
delete from orders o using profiles p where p.id = o.user_id and o.status = 'sent';
