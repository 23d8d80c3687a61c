-- refused: line 2: set session authorization
SET session_authorization = "Postgres";
