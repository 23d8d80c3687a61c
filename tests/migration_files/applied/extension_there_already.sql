create extension if not exists plpgsql with schema pg_catalog;
