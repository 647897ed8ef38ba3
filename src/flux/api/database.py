"""Transactions in which the database knows the caller, and decides what it may see.

The server's own login (``flux_gateway…``) has no rights but to become one of the roles below, for one transaction:

- ``flux_anon``, ``flux_authenticated``, ``flux_operator``, ``flux_edge``, ``flux_service``: what a caller is. They have
  rights on schema ``flux_api`` only: views and functions, fenced by the caller's sites.
- ``flux_server``: Flux's own functions on behalf of a caller (typed endpoints, an edge's link). It reads and writes
  the tables of schema ``flux``, where row-level security fences it by the same claims.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool

from flux.api.identity import Identity
from flux.api.sharing import connection_of

SERVER_ROLE = "flux_server"
DEFAULT_TIMEOUT_MS = 15_000

_BECOME = """
    SELECT flux.check_key(%(key_id)s), set_config('request.jwt.claims', %(claims)s, {local}),
           set_config('flux.actor', %(actor)s, {local}), set_config('flux.request_id', %(request_id)s, {local}),
           set_config('statement_timeout', %(timeout_ms)s, {local}), set_config('role', %(role)s, {local})
"""
BEGIN_REQUEST = _BECOME.format(local="true")
"""First statement of each request's transaction; raises ``invalid_authorization_specification`` for a revoked key.

A transaction that is to be read only is made so after it, since it notes that the key was used.
"""
BEGIN_READING = BEGIN_REQUEST.rstrip() + ", set_config('transaction_read_only', 'on', true)"
"""The same, and from there on the transaction is read only."""
BEGIN_SESSION = _BECOME.format(local="false")
"""The same for a whole session."""


def begin_parameters(
    identity: Identity, role: str | None = None, timeout_ms: int = DEFAULT_TIMEOUT_MS, *, request_id: str = ""
) -> dict[str, Any]:
    """Parameters of :data:`BEGIN_REQUEST`; ``role`` None: the caller's own. ``request_id`` is for the audit log."""
    return {
        "key_id": identity.key_id,
        "claims": json.dumps(dict(identity.claims)),
        "actor": identity.name,
        "request_id": request_id,
        "timeout_ms": str(timeout_ms),
        "role": role or identity.role.database_role,
    }


@asynccontextmanager
async def as_caller(
    pool: "AsyncConnectionPool[AsyncConnection[Any]]",
    identity: Identity,
    *,
    role: str | None = None,
    timeout_ms: int = DEFAULT_TIMEOUT_MS,
    request_id: str = "",
) -> AsyncIterator[AsyncConnection[Any]]:
    """A transaction as ``identity``; ``role=SERVER_ROLE`` for Flux's own functions on its behalf."""
    async with connection_of(pool, identity) as conn, conn.transaction():
        await conn.execute(BEGIN_REQUEST, begin_parameters(identity, role, timeout_ms, request_id=request_id))
        yield conn


@asynccontextmanager
async def session_as_caller(
    pool: "AsyncConnectionPool[AsyncConnection[Any]]",
    identity: Identity,
    *,
    role: str = SERVER_ROLE,
    timeout_ms: int = DEFAULT_TIMEOUT_MS,
    request_id: str = "",
) -> AsyncIterator[AsyncConnection[Any]]:
    """Like :func:`as_caller`, for work that commits transactions of its own: the connection is not in one.

    What the session became is undone before anybody else gets it, also after an error that left it in no transaction;
    where that is not sure, the connection is closed.
    """
    async with connection_of(pool, identity) as conn:
        undone = False
        try:
            try:
                await conn.execute(BEGIN_SESSION, begin_parameters(identity, role, timeout_ms, request_id=request_id))
                yield conn
            finally:
                if conn.pgconn.transaction_status == TransactionStatus.IDLE:
                    await conn.execute("RESET ROLE; RESET ALL")
                    undone = True
        finally:
            if not undone:
                await conn.close()
