create table documents (d jsonb, a text[][], r int4range);
insert into documents values ('{"a": "it''s; {\"b\": [1, 2]}", "$$": ";"}', '{{"a;b","c\"d"},{e,f}}', '[1,5)');
create index on documents ((d -> 'a' ->> 'b'));
