create table texts (body text);
insert into texts values ('first line;
-- second line
/* third line

    last line;
');
