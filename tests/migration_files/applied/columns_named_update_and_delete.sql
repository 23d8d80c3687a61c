-- As tables of permissions have them: the words are no statements there.
create table permissions (role text primary key, read boolean, update boolean not null, delete boolean not null);
insert into permissions (role, read, update, delete) values ('admin', true, true, true), ('user', true, false, false);
select role, read, update, delete from permissions;
select p.update, p.delete from permissions as p;
with allowed as (select role, delete from permissions where update), every as (select role, update from permissions)
select a.delete from allowed as a, every as e;
explain select delete from permissions;
update permissions set update = true, delete = false where role = 'user';
with gone as (delete from permissions where not delete returning role, delete), changed as (
    update permissions set read = false where delete returning update, delete
)
select delete from gone;
