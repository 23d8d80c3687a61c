create table public.events (id bigint generated always as identity, at timestamptz not null, what text) partition by range (at);
create table public.events_2026 partition of public.events for values from ('2026-01-01') to ('2027-01-01');
create table public.events_rest partition of public.events default;
insert into public.events (at, what) values ('2026-05-01', 'in'), ('2020-01-01', 'out');
