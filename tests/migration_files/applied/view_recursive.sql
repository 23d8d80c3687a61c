create recursive view countdown (n) as values (3) union all select n - 1 from countdown where n > 0;
