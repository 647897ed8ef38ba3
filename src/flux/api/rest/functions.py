"""The functions of schema ``flux_api``: what they take and give, and which of them a call means."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from psycopg import AsyncConnection

from flux.api.rest.errors import ApiError

SCHEMA = "flux_api"
PROFILE = "flux"
"""What clients call it."""
_LIKENESS = 0.6


@dataclass(frozen=True, slots=True)
class Argument:
    """``name`` empty: by place only. ``type``: as SQL writes it."""

    name: str
    type: str
    required: bool
    variadic: bool = False


@dataclass(frozen=True, slots=True)
class Function:
    """One function; several may share a name. ``volatility``: as pg_proc has it, ``i``, ``s`` or ``v``."""

    name: str
    arguments: tuple[Argument, ...]
    returns: str
    returns_set: bool
    columns: tuple[tuple[str, str], ...]
    """Names and types of the columns of its rows; empty: it gives plain values."""
    table: str | None
    """The view whose rows it gives."""
    volatility: str
    comment: str | None
    roles: frozenset[str]
    """Database roles that may call it."""

    @property
    def is_void(self) -> bool:
        return self.returns == "void"

    @property
    def reads_only(self) -> bool:
        return self.volatility != "v"

    @property
    def takes_body(self) -> bool:
        """Whether its only argument has no name, and is the whole body."""
        return [(a.name, a.type) for a in self.arguments] in ([("", "json")], [("", "jsonb")])

    def takes(self, names: Collection[str]) -> bool:
        """Whether these arguments, and no others, are enough to call it."""
        return {a.name for a in self.arguments if a.required} <= {*names} <= {a.name for a in self.arguments if a.name}


_FUNCTIONS = """
    SELECT p.proname, p.provolatile::text, p.proretset, format_type(p.prorettype, NULL),
        obj_description(p.oid, 'pg_proc'),
        array(SELECT r.rolname::text FROM pg_roles r
              WHERE r.rolname LIKE 'flux\\_%%' AND has_function_privilege(r.oid, p.oid, 'EXECUTE')),
        view.relname,
        array(SELECT json_build_array(coalesce(a.name, ''), format_type(a.type, NULL),
                  row_number() OVER (ORDER BY a.n) <= p.pronargs - p.pronargdefaults, coalesce(a.mode = 'v', false))
              FROM unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]), p.proargnames, p.proargmodes)
                  WITH ORDINALITY AS a(type, name, mode, n)
              WHERE a.type IS NOT NULL AND coalesce(a.mode, 'i') IN ('i', 'b', 'v') ORDER BY a.n),
        CASE WHEN composite.oid IS NOT NULL
        THEN array(SELECT json_build_array(c.attname, format_type(c.atttypid, c.atttypmod)) FROM pg_attribute c
                   WHERE c.attrelid = composite.oid AND c.attnum > 0 AND NOT c.attisdropped ORDER BY c.attnum)
        ELSE array(SELECT json_build_array(a.name, format_type(a.type, NULL))
                   FROM unnest(p.proallargtypes, p.proargnames, p.proargmodes) WITH ORDINALITY AS a(type, name, mode, n)
                   WHERE a.mode IN ('o', 'b', 't') ORDER BY a.n) END
    FROM pg_proc p
    JOIN pg_type t ON t.oid = p.prorettype
    LEFT JOIN pg_class composite ON composite.oid = t.typrelid AND t.typtype = 'c'
    LEFT JOIN pg_class view ON view.oid = composite.oid AND view.relnamespace = p.pronamespace
        AND view.relkind IN ('v', 'r', 'p')
    WHERE p.pronamespace = to_regnamespace(%s) AND p.prokind = 'f' AND p.prorettype <> 'trigger'::regtype
    ORDER BY p.proname, p.oid
"""


async def read_functions(conn: AsyncConnection[Any], schema: str = SCHEMA) -> tuple[Function, ...]:
    """Every function of the schema, whoever may call it."""
    cursor = await conn.execute(_FUNCTIONS, (schema,))
    return tuple(
        Function(
            name=name,
            arguments=tuple(Argument(*argument) for argument in arguments),
            returns=returns,
            returns_set=returns_set,
            columns=tuple((column, type_) for column, type_ in columns),
            table=table,
            volatility=volatility,
            comment=comment,
            roles=frozenset(roles),
        )
        for name, volatility, returns_set, returns, comment, roles, table, arguments, columns in await cursor.fetchall()
    )


def find_function(functions: Iterable[Function], name: str, given: Sequence[str], *, body: bool) -> Function:
    """The one function that a call means; ``body``: it has one, so that a function of one unnamed JSON will do.

    ApiError 404 (PGRST202) where there is none, 300 (PGRST203) where there are several.
    """
    everything = [*functions]
    named = [function for function in everything if function.name == name]
    fitting = [function for function in named if function.takes(given) and not function.takes_body]
    if not fitting and body:
        fitting = [function for function in named if function.takes_body][:1]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        calls = ", ".join(f"{PROFILE}.{name}({_signature(function)})" for function in fitting)
        raise ApiError(
            300,
            "PGRST203",
            f"Could not choose the best candidate function between: {calls}",
            hint="Try renaming the parameters or the function itself in the database so that one of them is meant",
        )
    raise _not_found(everything, named, name, given, body=body)


def _signature(function: Function) -> str:
    return ", ".join(f"{a.name} => {a.type}" if a.name else a.type for a in function.arguments)


def _not_found(
    everything: Sequence[Function], named: Sequence[Function], name: str, given: Sequence[str], *, body: bool
) -> ApiError:
    call = f"{PROFILE}.{name}" + (f"({', '.join(sorted(given))})" if given else "")
    wanted = f"with parameter{'s' * (len(given) > 1)} {', '.join(sorted(given))}" if given else "without parameters"
    unnamed = " or with a single unnamed json/jsonb parameter" if body else ""
    hint: str | None
    if named:
        hint = "Perhaps you meant to call the function " + " or ".join(
            f"{PROFILE}.{name}({', '.join(a.name for a in function.arguments)})" for function in named
        )
    else:
        close = get_close_matches(name, sorted({function.name for function in everything}), n=1, cutoff=_LIKENESS)
        hint = f"Perhaps you meant to call the function {PROFILE}.{close[0]}" if close else None
    return ApiError(
        404,
        "PGRST202",
        f"Could not find the function {call} in the schema cache",
        f"Searched for the function {PROFILE}.{name} {wanted}{unnamed}, but no matches were found in the schema cache.",
        hint,
    )
