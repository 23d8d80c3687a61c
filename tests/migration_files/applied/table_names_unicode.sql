create table größen ("名前" text, "😀" int);
insert into größen values ('ü – „x“', 1);
create table U&"d\0061ta" (id int);
