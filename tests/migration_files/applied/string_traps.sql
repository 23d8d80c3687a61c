create table strings (s text);
insert into strings values ('a\'), (E'\\'), (E'it\'s;'), ('it''s;'), ('a'
    ';b'), (U&'\003b;'), (n'n;'), ('-- ;'), ('/* ;'), ('$$'), (''''), ('''');
