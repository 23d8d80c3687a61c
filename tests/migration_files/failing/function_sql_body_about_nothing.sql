create function broken() returns int language sql as $$ select id from nowhere $$;
