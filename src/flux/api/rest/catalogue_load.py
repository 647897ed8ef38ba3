"""Reads the :class:`~flux.api.rest.catalogue.Catalogue` from PostgreSQL's own."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from flux.api.identity import Role
from flux.api.rest.catalogue import (
    Cardinality,
    Catalogue,
    ColumnInfo,
    ForeignKey,
    Relationship,
    Table,
    Through,
    Verb,
)
from flux.api.rest.functions import SCHEMA, read_functions

_REGISTRY = "mg_device_registry"
_DECLARED: tuple[tuple[str, str, str, str], ...] = (
    ("control_decisions", "plan_hash", "control_plans", "hash"),
    ("market_data_history", "site", "sites", "site"),
)
"""Table, column, target and its column, where rows hang together without a foreign key.

Beside these, every ``device_id`` without one is that of the registry: rollups have no key, to be written faster.
"""

_COLUMNS = """
    SELECT c.relname AS table, a.attname AS column, format_type(a.atttypid, a.atttypmod) AS type,
           coalesce(element.typname, base.typname) AS base_type,
           coalesce(NOT b.attnotnull, true) AS nullable, pg_get_expr(d.adbin, d.adrelid) AS default,
           coalesce(b.attidentity = 'a' OR b.attgenerated <> '', false) AS generated,
           coalesce(col_description(c.oid, a.attnum), col_description(b.attrelid, b.attnum)) AS comment,
           coalesce(obj_description(c.oid, 'pg_class'), obj_description(b.attrelid, 'pg_class')) AS table_comment
    FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type base ON base.oid = a.atttypid
    LEFT JOIN pg_type element ON base.typtype = 'd' AND element.oid = base.typbasetype
    LEFT JOIN pg_class t ON t.relname = c.relname AND t.relnamespace = to_regnamespace('flux')
    LEFT JOIN pg_attribute b ON b.attrelid = t.oid AND b.attname = a.attname AND NOT b.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = b.attrelid AND d.adnum = b.attnum
    WHERE c.relnamespace = to_regnamespace(%(schema)s) AND c.relkind IN ('v', 'm', 'r', 'p')
    ORDER BY c.relname, a.attnum
"""
_KEYS = """
    SELECT t.relname AS table, k.conname AS name, k.contype::text AS kind, f.relname AS target,
           ARRAY(SELECT attname::text FROM unnest(k.conkey) WITH ORDINALITY AS n (number, place)
                 JOIN pg_attribute ON attrelid = t.oid AND attnum = number ORDER BY place) AS columns,
           ARRAY(SELECT attname::text FROM unnest(k.confkey) WITH ORDINALITY AS n (number, place)
                 JOIN pg_attribute ON attrelid = f.oid AND attnum = number ORDER BY place) AS target_columns
    FROM pg_constraint k
    JOIN pg_class t ON t.oid = k.conrelid AND t.relnamespace = to_regnamespace('flux')
    LEFT JOIN pg_class f ON f.oid = k.confrelid
    WHERE k.contype IN ('p', 'u', 'f')
    ORDER BY t.relname, k.contype = 'u', k.conname
"""
_RIGHTS = """
    SELECT c.relname AS table, role, verb
    FROM pg_class c, unnest(%(roles)s::text[]) role, unnest(%(verbs)s::text[]) verb
    WHERE c.relnamespace = to_regnamespace(%(schema)s) AND c.relkind IN ('v', 'm', 'r', 'p')
      AND to_regrole('flux_' || role) IS NOT NULL
      AND (has_table_privilege('flux_' || role, c.oid, verb)
           OR (verb <> 'DELETE' AND has_any_column_privilege('flux_' || role, c.oid, verb)))
"""
_TYPES = """
    SELECT typname AS name FROM pg_type
    WHERE typnamespace = 'pg_catalog'::regnamespace
      AND typname IN ('bool', 'int2', 'int4', 'int8', 'float4', 'float8', 'numeric', 'text', 'varchar', 'bpchar',
                      'date', 'time', 'timetz', 'timestamp', 'timestamptz', 'interval', 'uuid', 'json', 'jsonb',
                      'bytea', 'money')
"""


async def load_catalogue(conn: AsyncConnection[Any]) -> Catalogue:
    """All that schema ``flux_api`` has, whoever may use it."""
    parameters = {"schema": SCHEMA, "roles": [role.value for role in Role], "verbs": [verb.value for verb in Verb]}

    async def rows(query: str) -> list[dict[str, Any]]:
        async with conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(query.encode(), parameters)
            return await cursor.fetchall()

    columns, keys, rights = await rows(_COLUMNS), await rows(_KEYS), await rows(_RIGHTS)
    tables = _tables(columns, keys, rights)
    return Catalogue(
        tables=tables,
        relationships=_relationships(tables.values()),
        functions=await read_functions(conn),
        types=frozenset(row["name"] for row in await rows(_TYPES)),
    )


def _tables(
    columns: list[dict[str, Any]], keys: list[dict[str, Any]], rights: list[dict[str, Any]]
) -> dict[str, Table]:
    infos: dict[str, dict[str, ColumnInfo]] = defaultdict(dict)
    comments: dict[str, str | None] = {}
    for row in columns:
        infos[row["table"]][row["column"]] = _column(row)
        comments[row["table"]] = row["table_comment"]
    granted: dict[str, dict[Role, set[Verb]]] = defaultdict(lambda: defaultdict(set))
    for row in rights:
        granted[row["table"]][Role(row["role"])].add(Verb(row["verb"]))
    tables = {}
    for name, of_table in infos.items():
        own = [key for key in keys if key["table"] == name and set(key["columns"]) <= of_table.keys()]
        unique = [tuple(key["columns"]) for key in own if key["kind"] != "f"]
        tables[name] = Table(
            name=name,
            columns=of_table,
            primary_key=next((tuple(key["columns"]) for key in own if key["kind"] == "p"), ()),
            unique_keys=tuple(dict.fromkeys(unique)),
            foreign_keys=_foreign_keys(name, own, infos),
            comment=comments[name],
            rights={role: frozenset(verbs) for role, verbs in granted[name].items()},
        )
    return tables


def _column(row: dict[str, Any]) -> ColumnInfo:
    return ColumnInfo(
        name=row["column"],
        type=row["type"],
        base_type=row["base_type"],
        nullable=row["nullable"],
        default=row["default"],
        generated=row["generated"],
        comment=row["comment"],
    )


def _foreign_keys(
    table: str, keys: list[dict[str, Any]], infos: Mapping[str, Mapping[str, ColumnInfo]]
) -> tuple[ForeignKey, ...]:
    """Those to tables of the API, the declared ones after those of the database."""
    found = [
        ForeignKey(key["name"], table, tuple(key["columns"]), key["target"], tuple(key["target_columns"]))
        for key in keys
        if key["kind"] == "f"
    ]
    declared = [(column, target, key) for of, column, target, key in _DECLARED if of == table]
    for column, target, key in [*declared, ("device_id", _REGISTRY, "id")]:
        if column in infos[table] and not any(one.columns == (column,) for one in found):
            found.append(ForeignKey(f"{table}_{column}_fkey", table, (column,), target, (key,)))
    return tuple(one for one in found if one.target in infos and set(one.target_columns) <= infos[one.target].keys())


def _relationships(tables: Iterable[Table]) -> dict[str, tuple[Relationship, ...]]:
    """Both ways of each foreign key, and the ways through a table whose primary key is made of two of them."""
    found: dict[str, list[Relationship]] = defaultdict(list)
    for table in tables:
        for key in table.foreign_keys:
            alone = key.columns in table.unique_keys
            there = tuple(zip(key.columns, key.target_columns, strict=True))
            back = tuple(zip(key.target_columns, key.columns, strict=True))
            way, way_back = (
                (Cardinality.ONE_TO_ONE, Cardinality.ONE_TO_ONE)
                if alone
                else (Cardinality.MANY_TO_ONE, Cardinality.ONE_TO_MANY)
            )
            found[table.name].append(Relationship(table.name, key.target, way, key.name, there))
            found[key.target].append(Relationship(key.target, table.name, way_back, key.name, back))
        for near in table.foreign_keys:
            for far in table.foreign_keys:
                if near is far or not {*near.columns, *far.columns} <= {*table.primary_key}:
                    continue
                through = Through(table.name, near, far)
                found[near.target].append(
                    Relationship(near.target, far.target, Cardinality.MANY_TO_MANY, table.name, (), through)
                )
    return {name: tuple(ways) for name, ways in found.items()}
