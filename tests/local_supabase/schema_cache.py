"""What the REST layer knows of the database: it is read at the start and again after `NOTIFY pgrst`, not
before.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from psycopg import AsyncConnection

from local_supabase.errors import RestError
from local_supabase.fuzzy import best_match

# The only schema that the API exposes.
SCHEMA = "public"
# PostgREST applies these of a function's own settings to the whole transaction (its option
# db-hoisted-tx-settings).
_HOISTED = ("statement_timeout", "default_transaction_isolation", "plan_filter.statement_cost_limit")
# The least similarity for hints about names, and about parameters.
_NAMES, _PARAMETERS = 0.75, 0.33

_FUNCTIONS = """
select
    procedure.oid::bigint,
    procedure.proname,
    coalesce(procedure.proargnames, '{}') as argument_names,
    array(
        select format_type(argument.type, null)
        from unnest(procedure.proargtypes) with ordinality as argument (type, place)
        order by argument.place
    ) as argument_types,
    coalesce(procedure.proargmodes::text[], '{}') as argument_modes,
    procedure.pronargs - procedure.pronargdefaults as required,
    procedure.provariadic <> 0 as variadic,
    procedure.proretset,
    procedure.prorettype = 'void'::regtype as returns_void,
    type.typtype = 'c' or coalesce(procedure.proargmodes::text[] && '{t,b,o}', false) as returns_rows,
    procedure.provolatile = 'v' as volatile,
    coalesce(procedure.proconfig, '{}') as settings
from pg_catalog.pg_proc as procedure
join pg_catalog.pg_type as type on type.oid = procedure.prorettype
where
    procedure.pronamespace = 'public'::regnamespace
    and procedure.prokind = 'f'
    and procedure.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
order by procedure.oid
"""

_TABLES = """
select
    relation.relname,
    array_agg(attribute.attname::text order by attribute.attnum),
    coalesce((
        select array_agg(key.attname::text order by key.attnum)
        from pg_catalog.pg_index as index
        join pg_catalog.pg_attribute as key on key.attrelid = index.indexrelid
        where index.indrelid = relation.oid and index.indisprimary
    ), '{}')
from pg_catalog.pg_class as relation
join pg_catalog.pg_attribute as attribute on attribute.attrelid = relation.oid
where
    relation.relnamespace = 'public'::regnamespace
    and relation.relkind in ('r', 'v', 'm', 'f', 'p')
    and attribute.attnum > 0
    and not attribute.attisdropped
group by relation.oid, relation.relname
"""

_ROLE_SETTINGS = """
select role.rolname, array_agg(setting)
from pg_catalog.pg_db_role_setting as settings
join pg_catalog.pg_roles as role on role.oid = settings.setrole
cross join unnest(settings.setconfig) as setting
where
    settings.setdatabase = 0
    and pg_catalog.pg_has_role(current_user, role.oid, 'member')
    and role.rolname <> current_user
group by role.rolname
"""


@dataclass
class Function:
    """A function of the exposed schema. `parameters` are its input parameters as (name, type)."""

    oid: int
    name: str
    parameters: list[tuple[str, str]]
    required: set[str]
    variadic: bool
    returns_set: bool
    returns_void: bool
    returns_rows: bool
    volatile: bool
    settings: dict[str, str]

    def takes(self, keys: Collection[str]) -> bool:
        """Whether it can be called with exactly these named arguments."""
        names = {name for name, _ in self.parameters}
        return self.required <= set(keys) <= names and "" not in names

    @property
    def takes_json_body(self) -> bool:
        """Whether its only parameter is one json without a name: the body as it stands."""
        return len(self.parameters) == 1 and self.parameters[0][0] == "" and self.parameters[0][1] in ("json", "jsonb")


@dataclass
class Table:
    """A table or view of the exposed schema."""

    name: str
    columns: list[str]
    primary_key: list[str]


@dataclass
class SchemaCache:
    """Functions, tables, and the settings of the roles that requests switch to."""

    functions: list[Function] = field(default_factory=list)
    tables: dict[str, Table] = field(default_factory=dict)
    role_settings: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    async def load(cls, connection: AsyncConnection[Any]) -> SchemaCache:
        """Read it from the database."""
        functions = await (await connection.execute(_FUNCTIONS)).fetchall()
        tables = await (await connection.execute(_TABLES)).fetchall()
        roles = await (await connection.execute(_ROLE_SETTINGS)).fetchall()
        return cls(
            [_function(*row) for row in functions],
            {name: Table(name, columns, key) for name, columns, key in tables},
            {name: _settings(settings) for name, settings in roles},
        )

    def find_function(self, name: str, keys: Collection[str], content_type: str | None) -> Function:
        """The function of this name that takes these arguments; `content_type` is the body's, None without a
        body.

        Raises PGRST202 when there is none, PGRST203 when there are several.
        """
        overloads = [function for function in self.functions if function.name == name]
        found = []
        if content_type != "text/plain":
            found = [function for function in overloads if function.takes(keys)]
        if not found and content_type == "application/json":
            found = [function for function in overloads if function.takes_json_body]
        if not found:
            raise self._no_function(name, sorted(keys), content_type, overloads)
        if len(found) > 1:
            raise _ambiguous(found)
        return found[0]

    def find_table(self, name: str) -> Table:
        """The table; raises PGRST205."""
        if name not in self.tables:
            similar = best_match(name, self.tables, _NAMES)
            hint = f"Perhaps you meant the table '{SCHEMA}.{similar}'" if similar else None
            message = f"Could not find the table '{SCHEMA}.{name}' in the schema cache"
            raise RestError(404, "PGRST205", message, hint=hint)
        return self.tables[name]

    def _no_function(
        self, name: str, keys: list[str], content_type: str | None, overloads: list[Function]
    ) -> RestError:
        full_name, names = f"{SCHEMA}.{name}", ", ".join(keys)
        hint = None
        if content_type == "text/plain":
            message, searched = full_name, "with a single unnamed text parameter"
        else:
            message = f"{full_name}({names})" if keys else f"{full_name} without parameters"
            searched = f"with parameter{'s' if len(keys) > 1 else ''} {names}" if keys else "without parameters"
            if content_type == "application/json":
                searched += " or with a single unnamed json/jsonb parameter"
            hint = self._hint(name, names, overloads)
        found_nothing = "but no matches were found in the schema cache."
        details = f"Searched for the function {full_name} {searched}, {found_nothing}"
        message = f"Could not find the function {message} in the schema cache"
        return RestError(404, "PGRST202", message, details, hint)

    def _hint(self, name: str, names: str, overloads: list[Function]) -> str | None:
        if overloads:
            signatures = [f"({', '.join(sorted(p for p, _ in function.parameters))})" for function in overloads]
            similar = best_match(f"({names})", signatures, _PARAMETERS)
            similar = similar and f"{name}{similar}"
        else:
            similar = best_match(name, (function.name for function in self.functions), _NAMES)
        return f"Perhaps you meant to call the function {SCHEMA}.{similar}" if similar else None


def _function(
    oid: int,
    name: str,
    names: list[str],
    types: list[str],
    modes: list[str],
    required: int,
    variadic: bool,
    returns_set: bool,
    returns_void: bool,
    returns_rows: bool,
    volatile: bool,
    settings: list[str],
) -> Function:
    # Without modes every argument is an input; with them the outputs (o, t) are to be left out. Names may be lacking altogether.
    names = names or [""] * len(modes)
    inputs = [n for n, mode in zip(names, modes, strict=True) if mode in "ibv"] if modes else names
    inputs = inputs + [""] * (len(types) - len(inputs))
    hoisted = {key: value for key, value in _settings(settings).items() if key in _HOISTED}
    return Function(
        oid,
        name,
        list(zip(inputs, types, strict=True)),
        set(inputs[:required]),
        variadic,
        returns_set,
        returns_void,
        returns_rows,
        volatile,
        hoisted,
    )


def _settings(settings: list[str]) -> dict[str, str]:
    return dict(setting.split("=", 1) for setting in settings)


def _ambiguous(functions: list[Function]) -> RestError:
    signatures = (
        f"{SCHEMA}.{function.name}({', '.join(f'{name} => {kind}' for name, kind in function.parameters)})"
        for function in functions
    )
    return RestError(
        300,
        "PGRST203",
        f"Could not choose the best candidate function between: {', '.join(signatures)}",
        hint="Try renaming the parameters or the function itself in the database so function overloading "
        "can be resolved",
    )
