-- refused: line 2: psql command
\i other.sql
