insert into audit (what) values (E'tab\there \'quoted\' \\ back 🎉 \U0001F600 \u00e9'), ('👩‍👩‍👧‍👦 fam'), (U&'d\0061t\+000061'), (E'a''b\'c'), ('C:\temp\new');
create table "Ünïcödé 表" ("käse" text, "a""b" text);
insert into "Ünïcödé 表" values ('x', 'y');
comment on table "Ünïcödé 表" is E'line\nbreak -- not a comment /* nor this */';
