-- refused: line 2: create procedure execute_sql
create procedure public.execute_sql(query text) language plpgsql as $$ begin execute query; end $$;
