-- refused: line 2: set session authorization
SET SESSION AUTHORIZATION supabase_admin;
