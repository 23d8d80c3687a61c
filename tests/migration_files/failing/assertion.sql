do $$ begin assert 1 = 2, 'they differ'; end $$;
