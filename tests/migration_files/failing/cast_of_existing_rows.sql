alter table orders alter column status type integer using status::integer;
