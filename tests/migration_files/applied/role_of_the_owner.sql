-- As pg_dump and people write it who work with several roles: here there is only one.
SET ROLE postgres;
create table made_as_owner (who text default current_user);
set session role to "postgres";
SET SESSION AUTHORIZATION 'postgres';
insert into made_as_owner default values;
set local role = 'postgres'; reset role; set role none;
SET SESSION AUTHORIZATION DEFAULT;
insert into made_as_owner default values;
reset session authorization;
