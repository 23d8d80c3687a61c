--
-- PostgreSQL database dump
--

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: dumped; Type: TABLE; Schema: public; Owner: -
--

SET default_tablespace = '';

SET default_table_access_method = heap;

CREATE TABLE public.dumped (
    id bigint NOT NULL,
    note text
);
CREATE SEQUENCE public.dumped_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.dumped_id_seq OWNED BY public.dumped.id;
ALTER TABLE ONLY public.dumped ALTER COLUMN id SET DEFAULT nextval('public.dumped_id_seq'::regclass);
CREATE FUNCTION public.later() RETURNS bigint LANGUAGE sql AS $$ select count(*) from public.not_there_yet $$;
CREATE TABLE public.not_there_yet (id int);
INSERT INTO public.dumped (note) VALUES ('a'), ('b');
SELECT pg_catalog.setval('public.dumped_id_seq', 2, true);
