begin;
create table said (id int);
commit;

-- so that PostgREST sees it
notify pgrst, 'reload schema';
