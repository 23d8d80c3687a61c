do $$ begin raise exception 'teapot' using errcode = 'PT418', detail = 'd', hint = 'h'; end $$;
