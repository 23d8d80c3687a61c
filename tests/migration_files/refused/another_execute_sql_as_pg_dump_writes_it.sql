-- refused: line 3: create function execute_sql
create table notes (id bigint primary key);
CREATE FUNCTION "public"."execute_sql"("sql" "text") RETURNS "void" LANGUAGE "sql" AS $$ select; $$;
