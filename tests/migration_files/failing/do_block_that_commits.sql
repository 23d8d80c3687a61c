do $$ begin insert into audit (what) values ('c'); commit; end $$;
