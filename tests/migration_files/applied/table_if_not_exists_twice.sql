CREATE TABLE IF NOT EXISTS public.settings (key text PRIMARY KEY, value jsonb);
CREATE TABLE IF NOT EXISTS public.settings (key text PRIMARY KEY, value jsonb);
