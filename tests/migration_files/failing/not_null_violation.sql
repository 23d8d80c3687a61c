alter table orders add column reason text;

alter table orders alter column reason set not null;
