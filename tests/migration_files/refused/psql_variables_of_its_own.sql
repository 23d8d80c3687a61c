-- refused: line 4: psql's variable :USER
-- Not these: a cast, a slice, a string.
select '1'::text, (array[1, 2])[1:2], ':USER', $$:USER$$;
grant all on schema public to :USER;
