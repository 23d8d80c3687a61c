alter table profiles force row level security;
alter table profiles no force row level security;
alter table audit disable row level security;
