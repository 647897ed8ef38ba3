"""What the edge of a site is asked to do once, over HTTP: scan, test, set-point, stop; and what became of it."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from flux import registry
from flux.api.identity import Role
from flux.api.typed.operation import Caller, Instant, Name, OfSite, Site, Text, operation
from flux.devices.discovery import FoundUnit
from flux.errors import InputError, NotFoundError, RefusedError
from flux.model import Device, Job, JobKind, JobState
from flux.model.durations import Duration
from flux.model.jobs import LONGEST_SET_POINT
from flux.registry import discovered
from flux.registry.discovered import Discovery
from flux.store import jobs
from flux.store.dispatch import check_site
from flux.store.jobs import OrderKey

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
        extra="forbid",
        json_schema_extra={
            "examples": [{"power_kw": -50.0, "lasts": "15m"}, {"power_kw": -50.0, "until": "2026-01-15T13:00:00Z"}]
        },
    )

    power_kw: float | None = Field(allow_inf_nan=False, description="kW; + discharge, − charge.")
    until: Instant | None = Field(default=None, description="When it ends, at most 24 h ahead.")
    lasts: Duration | None = Field(default=None, description="In place of `until`: so long, by the platform's clock.")
    within: Within = timedelta(minutes=1)

    @model_validator(mode="after")
    def _ends_once(self) -> Self:
        if self.until is not None and self.lasts is not None:
            raise ValueError("give until or lasts, not both")
        return self


class Compare(BaseModel):
    """What to do about what a scan found; nothing unless it is said."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"register_new": True}]})

    register_new: bool = Field(default=False, description="Add what is new to the registry, at the job's site.")
    readdress: bool = Field(default=False, description="Take up the new address of devices that moved.")


@dataclass(frozen=True, slots=True)
class Compared:
    """How each that a scan found stands to the registry; ``changed``: devices that were registered or readdressed."""

    found: list[Discovery]
    changed: list[Device]


@operation("POST", "/v1/sites/{site}/scans", tag=_TAG, needs=Role.OPERATOR, status=202, errors=_ORDER, repeatable=True)
async def scan_site(caller: Caller, site: Site, body: Scan) -> Job:
    """Have the site's edge look for devices on its network. Answers with the job; its result is what was found."""
    args = body.model_dump(exclude={"within"})
    return await _order(caller, site, JobKind.SCAN, args, body)


@operation("POST", "/v1/devices/{name}/test", tag=_TAG, needs=Role.OPERATOR, status=202, errors=_ORDER, repeatable=True)
async def test_device(caller: Caller, name: Name, body: Test) -> Job:
    """Have the site's edge poll a device once: configured, testing or failed becomes active, or failed."""
    device = await registry.get_device(caller.conn, name)
    return await _order(caller, device.site, JobKind.TEST, {"device": device.name}, body)


@operation(
    "POST", "/v1/devices/{name}/set-point", tag=_TAG, needs=Role.OPERATOR, status=202, errors=_ORDER, repeatable=True
)
async def set_point(caller: Caller, name: Name, body: SetPoint) -> Job:
    """Give a battery a power by hand for a limited time, within all limits; its edge takes it up at once."""
    device = await registry.get_device(caller.conn, name)
    if body.lasts is not None and not timedelta() < body.lasts <= LONGEST_SET_POINT:
        raise InputError("lasts: longer than nothing, and at most 24 hours")
    until = body.until if body.lasts is None else caller.now + body.lasts
    args = {"device": device.name, "power_kw": body.power_kw, "until": None if until is None else until.isoformat()}
    return await _order(caller, device.site, JobKind.SET_POINT, args, body)


@operation("GET", "/v1/jobs", tag=_TAG)
async def list_jobs(
    caller: Caller,
    site: OfSite = None,
    limit: Annotated[int, Field(ge=1, le=1000, description="The newest so many.")] = 100,
) -> list[Job]:
    """The jobs of a site, or of every site, newest first."""
    return await jobs.list_jobs(caller.conn, site, limit=limit)


@operation("GET", "/v1/jobs/{job}", tag=_TAG, errors=(404,))
async def show_job(caller: Caller, job: JobId) -> Job:
    """What became of a job: its state, and the result of one that is done."""
    return await _visible(caller, job)


@operation("DELETE", "/v1/jobs/{job}", tag=_TAG, needs=Role.OPERATOR, errors=_ORDER)
async def cancel_job(caller: Caller, job: JobId) -> Job:
    """Call a job off that no edge has begun; 409 for one that is running or over."""
    return await jobs.cancel_job(caller.conn, (await _visible(caller, job)).id, actor=caller.actor)


@operation("POST", "/v1/jobs/{job}/found", tag=_TAG, needs=Role.OPERATOR, errors=_ORDER)
async def compare_found(caller: Caller, job: JobId, body: Compare) -> Compared:
    """How what a scan found stands to the registry; and, if that is said, take it up there."""
    scan = await _visible(caller, job)
    if scan.kind is not JobKind.SCAN or scan.state is not JobState.DONE:
        raise RefusedError(
            f"job {scan.id} is a {scan.kind} and {scan.state}: only a scan that is done has found something"
        )
    found = await discovered.compare(caller.conn, _units(scan), scan.site, on_its_network=True)
    changed: list[Device] = []
    if body.register_new:
        changed += await discovered.register(caller.conn, found, scan.site, caller.now, actor=caller.actor)
    if body.readdress:
        changed += await discovered.readdress(caller.conn, found, actor=caller.actor)
    return Compared(found, changed)


def _units(scan: Job) -> list[FoundUnit]:
    try:
        return TypeAdapter(list[FoundUnit]).validate_python(scan.result["found"])
    except (ValidationError, KeyError, TypeError):  # an edge of another version
        raise RefusedError(f"job {scan.id}: what its edge found can't be read by this version") from None


async def _order(caller: Caller, site: str, kind: JobKind, args: dict[str, Any], body: Scan | Test | SetPoint) -> Job:
    if not timedelta() < body.within <= jobs.LONGEST_WAIT:
        raise InputError(f"within: longer than nothing, and at most {jobs.LONGEST_WAIT.days}d")
    await check_site(caller.conn, site)
    order = None
    if caller.order_key is not None:
        said = {"kind": kind, "device": args.get("device"), "body": body.model_dump(mode="json")}
        order = OrderKey.of(caller.order_key, said)
    expires_at = caller.now + body.within
    return await jobs.create_job(caller.conn, site, kind, args, expires_at=expires_at, actor=caller.actor, order=order)


async def _visible(caller: Caller, job: UUID) -> Job:
    """A job of a site that the caller may see; of another nobody says that there is one."""
    found = await jobs.get_job(caller.conn, job)
    if caller.sites is not None and found.site not in caller.sites:
        raise NotFoundError(f"there is no job {job}")
    return found


OPERATIONS: tuple[Any, ...] = (scan_site, test_device, set_point, list_jobs, show_job, cancel_job, compare_found)
