create function extensions.slug_of(text) returns text language sql as $$ select pg_catalog.lower($1) $$;
-- In a block.
set search_path = '';
do $$ begin execute 'reset search_path'; end $$;
insert into audit (what) values (slug_of('In A Block') || current_setting('search_path'));
-- By a function, which has a path of its own meanwhile.
create function public.forget() returns void language plpgsql as $$ begin reset all; end $$;
set search_path = '';
select public.forget();
insert into audit (what) values (slug_of('By A Function') || current_setting('search_path'));
-- With comments in between.
set search_path = '';
/* back */ reset /* of */ search_path;
insert into audit (what) values (slug_of('With Comments') || current_setting('search_path'));
set search_path = '';
set /* it */ session
    -- to what it was
    search_path to default;
insert into audit (what) values (slug_of('To Default') || current_setting('search_path'));
-- In another one's head.
set search_path = 'pg_catalog';
set search_path = "$user", public;
insert into public.audit (what) values (current_setting('search_path'));
