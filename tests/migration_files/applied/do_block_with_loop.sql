do $$
declare t text;
begin
    foreach t in array array['a', 'b', 'c'] loop
        execute format('create table if not exists public.%I (id int primary key)', 't_' || t);
        execute format('alter table public.%I enable row level security;', 't_' || t);
    end loop;
end
$$ language plpgsql;
