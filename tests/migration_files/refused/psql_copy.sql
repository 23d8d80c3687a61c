-- refused: line 2: psql command
\copy audit from 'audit.csv' csv
