-- refused: line 3: set lock_timeout from current
set lock_timeout = 0;
create function public.patient() returns void language sql set work_mem from current set lock_timeout from current as '';
