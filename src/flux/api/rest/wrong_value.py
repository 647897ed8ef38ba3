"""Which value of a body PostgreSQL could not read: its own message names the value and the type, but no column."""

from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection, AsyncRawCursor

from flux.api.rest.bodies import Rows
from flux.api.rest.catalogue import ColumnInfo
from flux.api.rest.sqltext import Parameters, joined, sql

_FIRST_VERSION = 160_000
"""Of PostgreSQL that can be asked whether a text is a value of a type."""
_LONGEST = 100
NOT_READ = frozenset({"22P02", "22003", "22007", "22008", "22009", "22P03", "22001", "22021"})
"""SQLSTATEs of values that are none of their column's type."""


async def find_wrong_value(conn: AsyncConnection[Any], rows: Rows, columns: Sequence[ColumnInfo]) -> str | None:
    """The first value that is none of its column, in words; None where it cannot be told.

    ``conn``: in a transaction. Columns of JSON and of arrays are passed over: they are not read from text.
    """
    asked = [column for column in columns if not column.is_json and not column.type.endswith("[]")]
    if conn.info.server_version < _FIRST_VERSION or not asked:
        return None
    parameters = Parameters()
    bind = parameters.bind
    types = joined(", ", (sql("({}::text, {}::text)", bind(column.name), bind(column.type)) for column in asked))
    query = sql(
        "SELECT sent.n, given.key, left(given.value, {limit}::integer)"
        " FROM json_array_elements({body}::json) WITH ORDINALITY AS sent(row, n)"
        " CROSS JOIN LATERAL json_each_text(CASE WHEN json_typeof(sent.row) = 'object' THEN sent.row END)"
        " AS given(key, value)"
        " JOIN (VALUES {types}) AS known(name, type) ON known.name = given.key"
        " WHERE NOT pg_input_is_valid(given.value, known.type) LIMIT 1",
        limit=bind(str(_LONGEST)),
        body=bind(rows.array),
        types=types,
    )
    async with AsyncRawCursor(conn) as cursor:
        await cursor.execute(query.encode(), parameters.values)
        found = await cursor.fetchone()
    if found is None:
        return None
    number, column, value = found
    return f'column "{column}" of row {number}: "{value}"'
