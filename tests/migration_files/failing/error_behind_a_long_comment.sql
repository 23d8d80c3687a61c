/*
  A long

  comment; with semicolons;
*/
-- and more

select
    1,
    no_such_column
from orders;
