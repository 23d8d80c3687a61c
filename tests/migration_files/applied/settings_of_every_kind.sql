-- In all the ways that SQL has to set something.
set names 'UTF8';
set schema 'public';
set xml option content;
set seed to 0.5;
set time zone 'Asia/Tokyo';
set local time zone local;
set session intervalstyle = 'iso_8601';
set session characteristics as transaction isolation level read committed, read write;
set app.tenant = '7';
select set_config('app.user', 'ann', false);
create table settings_seen as
select random() as by_the_seed, current_setting('app.tenant') as tenant, current_setting('app.user') as person, (interval '1 day')::text as day;
reset all;
