insert into audit (what) select repeat('0123456789', 1000) || ';' from generate_series(1, 3);
