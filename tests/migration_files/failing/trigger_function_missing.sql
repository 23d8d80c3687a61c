create trigger t before update on orders for each row execute function missing_function();
