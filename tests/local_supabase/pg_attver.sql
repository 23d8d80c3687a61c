-- PostgreSQL's releases of 12 November 2026 (14.25, 15.20, 16.16, 17.12, 18.7) keep an option of their own in
-- pg_attribute.attoptions, `pg_attver=N`: every column has it that a table, view or composite type can have; N is where the
-- WAL was when the column was made, or when the type of a column of the same relation, itself or one before it, was last
-- altered. Nobody can set it. This does the same on a server that is older. Run by the superuser in a template database.

create function extensions.set_pg_attver() returns event_trigger
    language plpgsql security definer
    set search_path = ''
    as $$
    declare
        now text := pg_catalog.pg_current_wal_insert_lsn() - '0/0';
    begin
        -- To notice that a type was altered, the last three digits of N tell of the column's type.
        with columns as (
            select
                a.attrelid,
                a.attnum,
                array_remove(a.attoptions, own.option) as others,
                own.option,
                right((hashtext(concat_ws(' ', a.atttypid, a.atttypmod, a.attcollation)) + 1e10)::text, 3) as type
            from pg_catalog.pg_attribute as a
            inner join pg_catalog.pg_class as c on c.oid = a.attrelid and c.relkind in ('r', 'p', 'v', 'm', 'f', 'c')
            left join lateral (
                select option from unnest(a.attoptions) as option where option like 'pg\_attver=%'
            ) as own on true
            where a.attrelid >= 16384 and a.attnum > 0 and not a.attisdropped
        ),
        altered as (
            select c.attrelid, min(c.attnum) as first from columns as c where right(c.option, 3) <> c.type group by c.attrelid
        )
        update pg_catalog.pg_attribute as a
        set attoptions = array_prepend('pg_attver=' || now || c.type, c.others)
        from columns as c
        left join altered as t on t.attrelid = c.attrelid
        where a.attrelid = c.attrelid and a.attnum = c.attnum and (c.option is null or c.attnum >= t.first);
    end
    $$;

-- An older server checks all of a column's options when one of them is set, and knows the others only. So, before a statement
-- that sets them, its tables lose ours, and get it back after it.
create function extensions.forget_pg_attver() returns event_trigger
    language plpgsql security definer
    set search_path = ''
    as $$
    declare
        statement text;
    begin
        get diagnostics statement = pg_context;
        statement := concat_ws(' ', statement, pg_catalog.current_query());
        if statement ~ 'n_distinct' then
            update pg_catalog.pg_attribute as a
            set attoptions = nullif(
                array(select option from unnest(a.attoptions) as option where option not like 'pg\_attver=%'), '{}'
            )
            from pg_catalog.pg_class as c
            where c.oid = a.attrelid and c.oid >= 16384 and a.attoptions is not null and strpos(statement, c.relname) > 0;
        end if;
    end
    $$;

create event trigger forget_pg_attver on ddl_command_start
    when tag in ('ALTER TABLE', 'ALTER FOREIGN TABLE') execute function extensions.forget_pg_attver();
create event trigger set_pg_attver on ddl_command_end
    when tag in (
        'CREATE SCHEMA', 'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE', 'CREATE FOREIGN TABLE',
        'ALTER FOREIGN TABLE', 'IMPORT FOREIGN SCHEMA', 'CREATE VIEW', 'CREATE MATERIALIZED VIEW', 'CREATE TYPE', 'ALTER TYPE',
        'CREATE EXTENSION', 'ALTER EXTENSION'
    ) execute function extensions.set_pg_attver();
alter event trigger forget_pg_attver enable always;
alter event trigger set_pg_attver enable always;

-- Any such statement brings it to what is there already.
create schema first;
drop schema first;
