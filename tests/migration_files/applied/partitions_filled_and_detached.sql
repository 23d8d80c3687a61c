create table public.ev (at timestamptz not null, v int) partition by range (at);
create table public.ev_2024 partition of public.ev for values from ('2024-01-01') to ('2025-01-01');
create table public.ev_d partition of public.ev default;
create index on public.ev (at);
insert into public.ev select '2024-01-01'::timestamptz + n * interval '1 day', n from generate_series(1, 500) n;
alter table public.ev detach partition public.ev_d;
