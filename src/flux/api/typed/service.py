"""What keeps the platform running, for its operators: how long data is kept, how far the rollups are, the workers."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from flux.api.identity import Role
from flux.api.typed.operation import Caller, ForbiddenError, Row, Text, operation
from flux.store import lifecycle, queries, rollups
from flux.store.lifecycle import Series

_TAG = "Service"


@dataclass(frozen=True, slots=True)
class Storage:
    """What the database keeps, and how far the rollups are behind: changes, and the age of the oldest in seconds."""

    tables: list[Series]
    rollups_behind: int | None
    rollups_behind_s: float | None


@dataclass(frozen=True, slots=True)
class Kept:
    """How long a table is kept, as PostgreSQL writes it; None: for ever."""

    table: str
    keep: str | None


class Keep(BaseModel):
    """How long to keep a table; ``archive``: write readings to Parquet before they go, null: as it was."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"keep": "180d", "archive": True}]})

    keep: Text = Field(max_length=100, description='90d, "18 months", 5y, or forever.')
    archive: bool | None = None


@operation("GET", "/v1/service/storage", tag=_TAG, needs=Role.SERVICE)
async def storage(caller: Caller) -> Storage:
    """What the database keeps, how large it is, what goes next, and how far the rollups are behind."""
    _check_sees_all(caller)
    behind = await rollups.lag(caller.conn)
    tables = await lifecycle.storage_status(caller.conn)
    seconds = None if behind is None else behind.age.total_seconds()
    return Storage(tables, None if behind is None else behind.changes, seconds)


@operation("GET", "/v1/service/jobs", tag=_TAG, needs=Role.SERVICE)
async def worker_jobs(caller: Caller) -> list[Row]:
    """What the workers do in the background: when each job last succeeded, and why it does not."""
    return await queries.worker_jobs(caller.conn)


@operation("PUT", "/v1/service/retention/{table}", tag=_TAG, needs=Role.SERVICE, errors=(404, 409))
async def set_retention(
    caller: Caller,
    table: Annotated[Text, Field(description="One of the tables of `/v1/service/storage`.")],
    body: Keep,
) -> Kept:
    """Set how long a table is kept. Rollups are kept as long as what they are made from, or longer."""
    _check_sees_all(caller)
    return Kept(table, await lifecycle.set_retention(caller.conn, table, body.keep, body.archive))


def _check_sees_all(caller: Caller) -> None:
    if caller.sites is not None:
        raise ForbiddenError("a table has the rows of every site, and this key is for some")


OPERATIONS: tuple[Any, ...] = (storage, worker_jobs, set_retention)
