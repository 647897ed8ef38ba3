"""What a case of the clients' suite is, and how its answer is judged: by plain SQL on the same database."""

from dataclasses import dataclass
from typing import Any, Literal

Client = Literal["postgrest", "supabase", "supabase-js", "postgrest-js"]
PYTHON: frozenset[Client] = frozenset({"postgrest", "supabase"})
JAVASCRIPT: frozenset[Client] = frozenset({"supabase-js", "postgrest-js"})
EVERY = PYTHON | JAVASCRIPT


@dataclass(frozen=True, slots=True)
class Case:
    """One call and what it must do.

    The ``data`` of the answer must be the rows of ``sql``, in its order (asked after the call, in UTC); with
    ``shape`` "one" the only row itself, "csv" the same as CSV, "value" its only column, "nothing" no data.
    """

    name: str
    calls: Any
    sql: str = ""
    shape: Literal["rows", "one", "csv", "value", "nothing"] = "rows"
    count_sql: str = ""
    """One integer, which ``count`` must be; empty: not asked."""
    error: str = ""
    """The ``code`` of the error that must come instead of an answer."""
    state_sql: str = ""
    """One boolean that must hold after the call."""
    undo_sql: str = ""
    """Puts the database back as the other cases know it."""
    only: frozenset[Client] = EVERY


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client said, whichever it was. An error is its ``code``; status None: the client does not tell."""

    data: Any = None
    count: int | None = None
    error: str | None = None
    message: str | None = None
