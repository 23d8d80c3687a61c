create table bits (b bit(4), v bit varying, x bytea);
insert into bits values (b'0101', x'ff', '\xdeadbeef'), (B'1111', X'0A', E'\\xff');
