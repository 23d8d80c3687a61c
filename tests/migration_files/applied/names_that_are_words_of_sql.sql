create table public."select" ("from" int, "Begin" int, "end;" text);
insert into public."select" values (1, 2, 'x;y');
alter table public."select" rename column "end;" to "commit";
select begin from (select 1 as begin) x;
create table public.step (step text, "rollback" text);
insert into step (step, rollback) values ('-- step: a', 'rollback;');
