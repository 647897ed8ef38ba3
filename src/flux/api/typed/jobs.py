"""What the edge of a site is asked to do once, over HTTP: scan, test, set-point, stop; and what became of it."""

from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from flux import registry
from flux.api.identity import Role
from flux.api.typed.operation import Caller, Instant, Name, Site, Text, operation
from flux.errors import InputError, NotFoundError
from flux.model import Job, JobKind
from flux.model.durations import Duration
from flux.store import jobs
from flux.store.dispatch import check_site

_TAG = "Jobs of a site's edge"
_ORDER = (404, 409)
_MINUTES_5 = timedelta(minutes=5)
Within = Annotated[Duration, Field(description="An edge that has not begun by then does not begin.")]
JobId = Annotated[UUID, Field(description="The job's id.")]


class Scan(BaseModel):
    """What to look at on the site's own network; requests that read only."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"ranges": ["192.168.1.0/24"], "units": "1-9"}]}
    )

    ranges: list[Text] = Field(min_length=1, max_length=64, description="Private networks or addresses.")
    ports: list[Annotated[int, Field(ge=1, le=65535)]] = Field(default=[502], min_length=1, max_length=8)
    units: Text = Field(default="1", max_length=100, description="Modbus units: 1, 1-9 or 1,2,10-12.")
    timeout_s: float = Field(default=1.0, gt=0, le=10, allow_inf_nan=False)
    within: Within = _MINUTES_5


class Test(BaseModel):
    """How long the site's edge has to begin."""

    __test__ = False

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"within": "2m"}]})

    within: Within = _MINUTES_5


class SetPoint(BaseModel):
    """A power by hand, within all limits, until it ends by itself. Null ends the one in force."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"power_kw": -50.0, "until": "2026-01-15T13:00:00Z"}]}
    )

    power_kw: float | None = Field(allow_inf_nan=False, description="kW; + discharge, − charge.")
    until: Instant | None = Field(default=None, description="When it ends, at most 24 h ahead; needed with a power.")
    within: Within = timedelta(minutes=1)


@operation("POST", "/v1/sites/{site}/scans", tag=_TAG, needs=Role.OPERATOR, status=202, errors=_ORDER)
async def scan_site(caller: Caller, site: Site, body: Scan) -> Job:
    """Have the site's edge look for devices on its network. Answers with the job; its result is what was found."""
    args = body.model_dump(exclude={"within"})
    return await _order(caller, site, JobKind.SCAN, args, body.within)


@operation("POST", "/v1/devices/{name}/test", tag=_TAG, needs=Role.OPERATOR, status=202, errors=_ORDER)
async def test_device(caller: Caller, name: Name, body: Test) -> Job:
    """Have the site's edge poll a device once: configured, testing or failed becomes active, or failed."""
    device = await registry.get_device(caller.conn, name)
    return await _order(caller, device.site, JobKind.TEST, {"device": device.name}, body.within)


@operation("POST", "/v1/devices/{name}/set-point", tag=_TAG, needs=Role.OPERATOR, status=202, errors=_ORDER)
async def set_point(caller: Caller, name: Name, body: SetPoint) -> Job:
    """Give a battery a power by hand for a limited time, within all limits; its edge takes it up at once."""
    device = await registry.get_device(caller.conn, name)
    until = None if body.until is None else body.until.isoformat()
    args = {"device": device.name, "power_kw": body.power_kw, "until": until}
    return await _order(caller, device.site, JobKind.SET_POINT, args, body.within)


@operation("GET", "/v1/sites/{site}/jobs", tag=_TAG, errors=(404,))
async def list_jobs(
    caller: Caller, site: Site, limit: Annotated[int, Field(ge=1, le=1000, description="The newest so many.")] = 100
) -> list[Job]:
    """The jobs of a site, newest first."""
    await check_site(caller.conn, site)
    return await jobs.list_jobs(caller.conn, site, limit=limit)


@operation("GET", "/v1/jobs/{job}", tag=_TAG, errors=(404,))
async def show_job(caller: Caller, job: JobId) -> Job:
    """What became of a job: its state, and the result of one that is done."""
    return await _visible(caller, job)


@operation("DELETE", "/v1/jobs/{job}", tag=_TAG, needs=Role.OPERATOR, errors=_ORDER)
async def cancel_job(caller: Caller, job: JobId) -> Job:
    """Call a job off that no edge has begun; 409 for one that is running or over."""
    return await jobs.cancel_job(caller.conn, (await _visible(caller, job)).id, actor=caller.actor)


async def _order(caller: Caller, site: str, kind: JobKind, args: dict[str, Any], within: timedelta) -> Job:
    if not timedelta() < within <= jobs.LONGEST_WAIT:
        raise InputError(f"within: longer than nothing, and at most {jobs.LONGEST_WAIT.days}d")
    await check_site(caller.conn, site)
    return await jobs.create_job(caller.conn, site, kind, args, expires_at=caller.now + within, actor=caller.actor)


async def _visible(caller: Caller, job: UUID) -> Job:
    """A job of a site that the caller may see; of another nobody says that there is one."""
    found = await jobs.get_job(caller.conn, job)
    if caller.sites is not None and found.site not in caller.sites:
        raise NotFoundError(f"there is no job {job}")
    return found


OPERATIONS: tuple[Any, ...] = (scan_site, test_device, set_point, list_jobs, show_job, cancel_job)
