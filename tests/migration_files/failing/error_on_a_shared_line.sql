select 1; select 2; select nothing_here; select 3;
