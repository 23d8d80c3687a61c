insert into audit (what) values ('a token') returning id, 5 as holders, 7 as rows, '{"a": 1}'::json as message, 'x' as progress;
