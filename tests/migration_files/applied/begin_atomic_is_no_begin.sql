create function a() returns int begin atomic select 1; end;
create function b() returns int language plpgsql as $$ begin return 1; end $$;
