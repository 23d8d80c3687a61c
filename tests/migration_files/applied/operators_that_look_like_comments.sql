create table ops as select 1 - -1 as minus, 4 */* four by two */ 2 as product, '{"a": 1}'::jsonb @> '{}' as contains, 2 -- ;
 - 1 as one, (array[1, 2, 3])[1:2] as slice, 5 % 2 as rest, - - 3 as three;
