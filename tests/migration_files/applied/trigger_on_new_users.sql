create function public.handle_new_user() returns trigger language plpgsql security definer set search_path = '' as $$
begin
    insert into public.profiles (id, name) values (new.id, new.raw_user_meta_data ->> 'full_name');
    return new;
end $$;
create constraint trigger profile_of_order after insert on public.orders
    deferrable initially deferred for each row execute function public.no_op();
