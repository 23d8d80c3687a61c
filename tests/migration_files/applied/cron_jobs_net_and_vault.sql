create extension if not exists pg_cron with schema extensions;
grant usage on schema cron to postgres;
select cron.unschedule(jobid) from cron.job where jobname = 'nightly';
select cron.schedule('nightly', '0 3 * * *', $$ delete from public.audit where what < now()::text; $$);
select cron.schedule('call', '*/5 * * * *', $cron$
  select net.http_post(
    url := 'https://x.supabase.co/functions/v1/f',
    headers := jsonb_build_object('Content-Type', 'application/json', 'Authorization', 'Bearer ' || (select decrypted_secret from vault.decrypted_secrets where name = 'k')),
    body := '{}'::jsonb) as request_id;
$cron$);
do $$ begin perform cron.unschedule('nope'); exception when others then raise notice 'x %', sqlerrm; end $$;
select vault.create_secret('s3cr3t', 'k', 'd');
