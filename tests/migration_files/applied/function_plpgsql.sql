create or replace function public.touch() returns trigger
language plpgsql
as $$
begin
    new.updated_at := now();  -- a semicolon; and another;
    return new;
end;
$$;
