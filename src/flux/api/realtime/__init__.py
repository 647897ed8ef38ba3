"""Realtime: changes of the database as they are committed, to Supabase's clients as they are.

::

    sockets ─ protocol ─ join ─┐                       flux.changes ◀─ triggers ◀─ every write
                               ▼                            │  NOTIFY
         channels ◀─ groups ◀─ hub ◀──────── log ◀──────────┘
                       ▲
                       └─ rows: fetched by key from the views of flux_api, as the caller
"""

from flux.api.realtime.limits import Limits
from flux.api.realtime.server import Realtime

__all__ = ["Limits", "Realtime"]
