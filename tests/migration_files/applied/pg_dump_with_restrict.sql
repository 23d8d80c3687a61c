--
-- PostgreSQL database dump
--

\restrict dZ1yhcDzqfb0

SET lock_timeout = 0;
CREATE TABLE public.restricted (id bigint);

\unrestrict dZ1yhcDzqfb0

