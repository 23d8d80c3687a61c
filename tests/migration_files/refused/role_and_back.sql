-- refused: line 3: set role
set role postgres;
set local role to service_role;
insert into audit (what) values ('x');
reset role;
