-- refused: line 2: detach partition concurrently
alter table public.events detach partition public.events_2026 concurrently;
