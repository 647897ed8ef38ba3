"""Who may do what through the HTTP API, as the database grants it now: read from its catalogue, not from the code."""

from collections.abc import Sequence
from typing import Any

from flux.store.db import connect_sync
from flux.store.rights import API_ROLES, TABLES

_TABLES = """
    SELECT c.relname, r.role,
           concat_ws(' ',
               CASE WHEN has_schema_privilege(r.role, c.relnamespace, 'USAGE') THEN concat_ws(' ',
                   CASE WHEN has_table_privilege(r.role, c.oid, 'SELECT') THEN 'read' END,
                   CASE WHEN has_any_column_privilege(r.role, c.oid, 'INSERT') THEN 'insert' END,
                   CASE WHEN has_any_column_privilege(r.role, c.oid, 'UPDATE') THEN 'update' END,
                   CASE WHEN has_table_privilege(r.role, c.oid, 'DELETE') THEN 'delete' END) END)
    FROM pg_class c CROSS JOIN unnest(%s::text[]) WITH ORDINALITY r(role, n)
    WHERE c.relnamespace = 'flux_api'::regnamespace AND c.relkind = 'v' ORDER BY c.relname, r.n
"""
_FUNCTIONS = """
    SELECT p.proname, r.role,
           CASE WHEN has_schema_privilege(r.role, p.pronamespace, 'USAGE')
                     AND has_function_privilege(r.role, p.oid, 'EXECUTE') THEN 'call' ELSE '' END
    FROM pg_proc p CROSS JOIN unnest(%s::text[]) WITH ORDINALITY r(role, n)
    WHERE p.pronamespace = 'flux_api'::regnamespace ORDER BY p.proname, r.n
"""
_CALL = "()"


def read_permissions(dsn: str) -> list[dict[str, str]]:
    """A row for each view and function of ``flux_api``: ``what``, ``rows`` (which of them), and a word list by role."""
    fences = {table.name: table.fence.words for table in TABLES}
    order = {table.name: number for number, table in enumerate(TABLES)}
    with connect_sync(dsn, autocommit=True) as conn:
        views = _by_name(conn.execute(_TABLES, (list(API_ROLES),)).fetchall())
        functions = _by_name(conn.execute(_FUNCTIONS, (list(API_ROLES),)).fetchall())
    rows = [
        {"what": name, "rows": fences.get(name, "not known to this program"), **cells}
        for name, cells in sorted(views.items(), key=lambda item: order.get(item[0], len(order)))
    ]
    return rows + [
        {"what": name + _CALL, "rows": "own devices and sites", **cells} for name, cells in functions.items()
    ]


def functions(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Those rows that are of functions."""
    return [row for row in rows if row["what"].endswith(_CALL)]


def as_markdown(rows: Sequence[dict[str, str]]) -> str:
    """The table of ``docs/api-security.md``."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(row[column] or "–" for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _by_name(found: Sequence[tuple[Any, ...]]) -> dict[str, dict[str, str]]:
    by_name: dict[str, dict[str, str]] = {}
    for name, role, words in found:
        by_name.setdefault(name, {})[role.removeprefix("flux_")] = words
    return by_name
