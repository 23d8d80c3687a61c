SET row_security = off;
INSERT INTO public.audit (id, what) OVERRIDING SYSTEM VALUE VALUES (1001, 'a\b');
INSERT INTO public.audit (id, what) OVERRIDING SYSTEM VALUE VALUES (1002, 'it''s; $$');
INSERT INTO public.audit (id, what) OVERRIDING SYSTEM VALUE VALUES (1003, NULL);
SELECT pg_catalog.setval('public.audit_id_seq', 1003, true);
