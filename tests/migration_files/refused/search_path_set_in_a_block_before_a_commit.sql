-- refused: line 4: a search_path that step "search_path_set_in_a_block_before_a_commit (2)" would not have
create schema elsewhere;
set client_min_messages = warning;
do $$ begin set search_path to elsewhere, public; end $$;
create table a (id int);
commit;
create table b (id int);
