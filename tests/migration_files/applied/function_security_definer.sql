create function public.is_member(team uuid) returns boolean
language sql stable security definer set search_path = ''
as $$ select exists (select 1 from public.team_members m where m.team_id = is_member.team and m.user_id = auth.uid()) $$;
revoke execute on function public.is_member(uuid) from public, anon;
create policy "members" on public.teams for select using (public.is_member(id));
