create table made (id int);


select 1;
do $$ begin
    raise serialization_failure;
end $$;
