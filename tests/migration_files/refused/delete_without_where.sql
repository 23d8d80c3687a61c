-- refused: line 2: delete without where
DELETE FROM public.audit;
