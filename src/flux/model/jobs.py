"""Jobs: what the edge of a site is asked to do once, and for which it must be asked in time."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from flux.errors import InputError
from flux.model.devices import SiteCode

LONGEST_SET_POINT = timedelta(hours=24)


class JobKind(StrEnum):
    """What a job is about; its arguments are one of the classes below."""

    SCAN = "scan"
    TEST = "test"
    SET_POINT = "set_point"
    STOP = "stop"


class JobState(StrEnum):
    """``waiting`` and ``running`` are open; an ``expired`` one was not taken in time and is never run."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class _Args(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ScanArgs(_Args):
    """Look for devices on the site's own network; requests that read only."""

    ranges: tuple[str, ...] = Field(min_length=1, max_length=64)
    """Private networks or addresses, like ``192.168.1.0/24``; 4,096 addresses at most."""
    ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = Field(default=(502,), min_length=1, max_length=8)
    units: str = Field(default="1", max_length=100)
    """Modbus units to ask on each open port: ``1``, ``1-9`` or ``1,2,10-12``."""
    timeout_s: float = Field(default=1.0, gt=0, le=10)
    """Of a connection, and of each answer."""


class TestArgs(_Args):
    """Poll one device of the site once."""

    __test__ = False  # no test of pytest's

    device: str = Field(min_length=1, max_length=100)
    """Name or id."""


class SetPointArgs(_Args):
    """A power by hand for one battery of the site's plan, within all limits, until it ends by itself."""

    device: str = Field(min_length=1, max_length=100)
    """Name or id."""
    power_kw: float | None = Field(allow_inf_nan=False)
    """+ discharge, − charge; null ends the one that is in force."""
    until: AwareDatetime | None = None
    """When it ends, at most 24 h ahead; needed where there is a power."""

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if (self.power_kw is None) is not (self.until is None):
            raise ValueError("a power needs until, and without a power there is none")
        return self


class StopArgs(_Args):
    """Bring every battery of the site to 0 kW, and rest until it is resumed."""

    reason: str = Field(default="", max_length=500)


JobArgs = ScanArgs | TestArgs | SetPointArgs | StopArgs
_ARGS: Mapping[JobKind, type[JobArgs]] = {
    JobKind.SCAN: ScanArgs,
    JobKind.TEST: TestArgs,
    JobKind.SET_POINT: SetPointArgs,
    JobKind.STOP: StopArgs,
}


def parse_job_args(kind: JobKind, args: Mapping[str, Any]) -> JobArgs:
    """The arguments of a job of ``kind``; InputError names what is wrong with them."""
    try:
        return _ARGS[kind].model_validate(dict(args))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{kind}: {f'{where}: ' if where else ''}{said}") from None


class Job(BaseModel):
    """One row of ``flux.edge_jobs``; ``state`` is as of when it was read. Times are aware UTC."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    id: UUID
    site: SiteCode
    kind: JobKind
    args: dict[str, Any]
    state: JobState
    created_by: str
    created_at: datetime
    expires_at: datetime
    """It is not begun any more from then on."""
    taken_at: datetime | None = None
    taken_by: str | None = None
    """The edge's own name."""
    finished_at: datetime | None = None
    result: Any = None
    """Of one that is done."""
    error: str | None = None
    """Why it failed or was cancelled."""

    @property
    def arguments(self) -> JobArgs:
        """``args``, checked; InputError where a newer or older version wrote something else."""
        return parse_job_args(self.kind, self.args)
