"""A transaction in which the database knows who acts, so that the events which its triggers write can say so."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection, errors

from flux.errors import InputError, RefusedError


@asynccontextmanager
async def acting(
    conn: AsyncConnection[Any], actor: str, *, trigger: str | None = None, reason: str | None = None
) -> AsyncIterator[None]:
    """A transaction by ``actor``; ``trigger`` and ``reason`` go into the event of the state that is asked for.

    What the registry refuses is raised as RefusedError (a change that can't be) or InputError (a value that can't).
    """
    try:
        async with conn.transaction():
            await conn.execute(
                "SELECT set_config('flux.actor', %s, true), set_config('flux.trigger', %s, true),"
                " set_config('flux.reason', %s, true)",
                (actor, trigger or "", reason or ""),
            )
            yield
    except errors.RestrictViolation as error:
        raise RefusedError(str(error.diag.message_primary)) from None
    except errors.CheckViolation as error:
        raise InputError(str(error.diag.message_primary)) from None
