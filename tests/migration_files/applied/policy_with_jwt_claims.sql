create policy "admins" on public.teams for all
    using ((auth.jwt() -> 'app_metadata' ->> 'role') = 'admin' and auth.role() = 'authenticated');
