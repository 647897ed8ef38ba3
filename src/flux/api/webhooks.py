"""Webhooks in: a dispatch platform says what a site's battery is to do, and signs it.

``POST /v1/webhooks/dispatch/{source}`` makes what it sends the whole schedule that ``source`` has for a site, in the
transaction in which the event is noted; the site's edge hears of it at once.
"""

import hashlib
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Path, Request
from pydantic import AliasChoices, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from flux.api.database import SERVER_ROLE, as_caller
from flux.api.identity import Identity, Role, set_identity
from flux.api.signatures import WINDOW, SignatureError, Signed, check
from flux.api.webhook_sources import Sources, sources_file
from flux.control.state import ScheduleStep
from flux.errors import InputError
from flux.store.axle import dispatch_values
from flux.store.dispatch import check_site, replace_schedule, schedule_of
from flux.store.market import upsert
from flux.store.webhooks import Event, Taken, take_event

_MOST_STEPS = 1000
_LONGEST_BODY = 1_000_000


class Step(BaseModel):
    """What the battery is asked to do in [start, end)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    start: AwareDatetime = Field(validation_alias=AliasChoices("start", "start_timestamp"))
    end: AwareDatetime = Field(validation_alias=AliasChoices("end", "end_timestamp"))
    action: str = Field(min_length=1, max_length=100)


class Schedule(BaseModel):
    """The whole schedule of a site; no steps: nothing is asked any more. Unknown keys are the sender's own."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        json_schema_extra={
            "examples": [
                {
                    "site": "WLCE",
                    "issued_at": "2026-01-15T16:58:00Z",
                    "steps": [
                        {"start": "2026-01-15T17:00:00Z", "end": "2026-01-15T17:30:00Z", "action": "discharge_max"}
                    ],
                }
            ]
        },
    )

    site: str = Field(min_length=1, max_length=200)
    steps: tuple[Step, ...] = Field(max_length=_MOST_STEPS, validation_alias=AliasChoices("steps", "schedule_steps"))
    issued_at: AwareDatetime | None = Field(
        default=None, description="when it was decided; default: when it was signed. An older one changes nothing."
    )


class Outcome(BaseModel):
    """What became of it: steps that are new, and steps that no longer hold."""

    site: str
    result: Taken
    added: int = 0
    withdrawn: int = 0


_ANSWERS: dict[int | str, dict[str, Any]] = {
    401: {"description": "Not signed, wrongly signed, not of now, or no such source"},
    403: {"description": "The source may not dispatch this site"},
    404: {"description": "There is no such site"},
    409: {"description": "A replay, or an id that was used for another body"},
    413: {"description": "The body is too long"},
    422: {"description": "The content is wrong; the message names the field"},
}
_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": Schedule.model_json_schema()}}}}


def webhook_router() -> APIRouter:
    """The endpoints; the application's state has ``settings``, ``pool`` and ``clock``."""
    router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

    @router.post(
        "/dispatch/{source}", summary="The dispatch schedule of a site", responses=_ANSWERS, openapi_extra=_BODY
    )
    async def dispatch(
        request: Request,
        source: Annotated[str, Path(max_length=63)],
        webhook_id: Annotated[str | None, Header()] = None,
        webhook_timestamp: Annotated[str | None, Header()] = None,
        webhook_signature: Annotated[str | None, Header()] = None,
    ) -> Outcome:
        """Signed as Standard Webhooks are. Sending it again does no harm; the same bytes again are a replay."""
        body = await request.body()
        if len(body) > _LONGEST_BODY:
            raise HTTPException(413, f"the body is longer than {_LONGEST_BODY:,} bytes")
        sites, secrets = _sources(request).get(source)
        try:
            signed = Signed.of(webhook_id, webhook_timestamp, webhook_signature)
            check(signed, body, secrets, request.app.state.clock())
        except SignatureError as error:
            raise HTTPException(401, str(error)) from None
        schedule = parse(body, signed.signed_at)
        if schedule.site not in sites:
            raise HTTPException(403, f"source {source} may not dispatch site {schedule.site!r}")
        identity = identity_of_source(source, sites)
        set_identity(request.scope, identity)
        event = Event(
            source,
            signed.id,
            schedule.site,
            signed.signed_at,
            hashlib.sha256(body).digest(),
            schedule.issued_at or signed.signed_at,
        )
        return await take(request.app.state.pool, identity, event, schedule)

    return router


def _sources(request: Request) -> Sources:
    state = request.app.state
    if not hasattr(state, "webhook_sources"):
        state.webhook_sources = Sources(sources_file(state.settings))
    sources: Sources = state.webhook_sources
    return sources


def identity_of_source(source: str, sites: Any) -> Identity:
    """What a source may do: what an operator may, at its sites."""
    claims = {"role": Role.OPERATOR.value, "sites": sorted(sites)}
    return Identity(Role.OPERATOR, frozenset(sites), name=f"webhook {source}", claims=claims)


def parse(body: bytes, signed_at: datetime) -> Schedule:
    """InputError that names the field: ``steps.0.end: …``."""
    try:
        schedule = Schedule.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise InputError(f"{where}: {first['msg']}") from None
    for place, step in enumerate(schedule.steps):
        if step.end <= step.start:
            raise InputError(f"steps.{place}.end: it must be after start")
    if schedule.issued_at is not None and schedule.issued_at > signed_at + WINDOW:
        raise InputError("issued_at: it lies ahead of webhook-timestamp")
    return schedule


async def take(pool: Any, identity: Identity, event: Event, schedule: Schedule) -> Outcome:
    """Note the event and do what it says, both or neither."""
    async with as_caller(pool, identity, role=SERVER_ROLE) as conn:
        await check_site(conn, event.site)
        result = await take_event(conn, event)
        if result is not Taken.NEW:
            return Outcome(site=event.site, result=result)
        steps = [ScheduleStep(step.start, step.end, step.action) for step in schedule.steps]
        replaced = await replace_schedule(conn, event.site, steps, source=event.source)
        asked = [stored.step for stored in await schedule_of(conn, event.site)]
        await upsert(conn, await dispatch_values(conn, event.site, asked, source=event.source))
    return Outcome(site=event.site, result=result, added=replaced.added, withdrawn=replaced.withdrawn)
