do 'begin insert into public.audit (what) values (''a;b''); end';
do language plpgsql E'begin\n\tinsert into public.audit (what) values (\'c\\\\d\');\nend';
