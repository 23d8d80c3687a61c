-- Every kind of value that needs care in COPY's text format, and columns that an INSERT would not set by itself.
set statement_timeout = 0;
select pg_catalog.set_config('search_path', '', false);
set check_function_bodies = false;

create table public."Things, all" (
    id integer generated always as identity primary key,
    "a, ""b""" text,
    short character varying(3),
    fixed character(4),
    bits bit(3),
    price numeric(8, 2),
    words text[],
    body jsonb,
    bytes bytea,
    at timestamp with time zone,
    kind public.order_kind,
    twice integer generated always as (id * 2) stored
);

--
-- Data for Name: Things, all; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public."Things, all" (id, "a, ""b""", short, fixed, bits, price, words, body, bytes, at, kind) FROM stdin;
7	it's; a 'text' -- /*	abc	ab  	101	12.345	{"a,b",NULL,"c\\"d"}	{"a": "line\\nbreak", "b": "\\\\"}	\\x00ff	2026-01-01 00:00:00+00	shop
8			    	000	0	{}	{}		infinity	online
9	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N
10	tab\tline\nreturn\rback\\slash \\N \b\f\v	\x41\102\q	\\	111	-1	{1,2}	[1, "ü"]	\\\\	epoch	shop
\.

COPY public.audit (id, what) FROM stdin; -- none
\.

select pg_catalog.setval('public."Things, all_id_seq"', 10, true);
create index on public."Things, all" (price);
