create function tags_of(variadic tags text[] default array[';', '$$']) returns text language sql as $body$ select array_to_string(tags, ';') $body$;
create table tagged as select tags_of() as a, tags_of('x', 'y') as b;
