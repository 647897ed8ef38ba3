"""Axle: the dispatch schedule of a battery, and telemetry for it.

Login is a form; the bearer token is renewed before it ends. A schedule is a list of steps, each with a start, an end
and an action such as ``charge_max``; a reply without steps is an error, so that the schedule from before stays.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from flux.errors import RefusedError
from flux.market.http import Manners, MarketHttp
from flux.market.source import Clock, UnexpectedReplyError

BASE_URL = "https://api.axle.energy"
MANNERS = Manners(calls=10, per_s=10.0, longest_retry_after_s=60.0)
_TOKEN_LASTS = timedelta(hours=1)  # what the platform documents, for a reply that does not say
_RENEW_BEFORE = timedelta(minutes=5)

Label = Literal["boundary_import_kw", "battery_inverter_import_kw", "battery_state_of_charge_pct"]
"""kW + into the site; kW + into the battery (charging); stored energy in per cent."""


@dataclass(frozen=True, slots=True)
class DispatchStep:
    """What the battery is asked to do in [start, end); ``action`` as it came, known or not."""

    start: datetime
    end: datetime
    action: str


@dataclass(frozen=True, slots=True)
class Telemetry:
    """One value for the platform, at an instant."""

    label: Label
    time: datetime
    value: float


class _Reply(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


ModelT = TypeVar("ModelT", bound=_Reply)


class _Token(_Reply):
    access_token: str
    expires_in: float | None = None


class _Step(_Reply):
    start_timestamp: AwareDatetime
    end_timestamp: AwareDatetime
    action: str


class _Schedule(_Reply):
    schedule_steps: list[_Step]


class Axle:
    """One asset at Axle."""

    def __init__(self, http: MarketHttp, asset: str, username: str, password: str, clock: Clock) -> None:
        self._http = http
        self._asset = asset
        self._form = {"username": username, "password": password}
        self._clock = clock
        self._login = asyncio.Lock()
        self._token: tuple[str, datetime] | None = None

    async def schedule(self) -> list[DispatchStep]:
        """The steps, in the platform's order; never none: a reply without steps is an UnexpectedReplyError."""
        path = f"entities/asset/{self._asset}/battery-schedule"
        reply = await self._authorised(lambda headers: self._http.get(path, headers=headers))
        schedule = _parse(_Schedule, reply)
        if not schedule.schedule_steps:
            raise UnexpectedReplyError("axle: a schedule without steps; the one from before stays")
        for step in schedule.schedule_steps:
            if step.start_timestamp >= step.end_timestamp:
                raise UnexpectedReplyError(f"axle: a step from {step.start_timestamp} to {step.end_timestamp}")
        return [DispatchStep(step.start_timestamp, step.end_timestamp, step.action) for step in schedule.schedule_steps]

    async def upload(self, telemetry: Sequence[Telemetry]) -> None:
        """Send readings; sending one again does no harm."""
        if not telemetry:
            return
        readings = [
            {
                "asset_id": self._asset,
                "start_timestamp": one.time.isoformat(),
                "end_timestamp": one.time.isoformat(),
                "value": one.value,
                "label": one.label,
            }
            for one in telemetry
        ]
        await self._authorised(
            lambda headers: self._http.post("data/readings", json={"readings": readings}, headers=headers)
        )

    async def _authorised(self, call: Callable[[dict[str, str]], Awaitable[Any]]) -> Any:
        """Make a call with a token; one that is refused though we think it holds is replaced once."""
        token = await self._bearer()
        try:
            return await call({"Authorization": f"Bearer {token}"})
        except RefusedError:
            if self._token is not None and self._token[0] == token:
                self._token = None
            return await call({"Authorization": f"Bearer {await self._bearer()}"})

    async def _bearer(self) -> str:
        async with self._login:
            if self._token is None or self._clock() >= self._token[1]:
                reply = _parse(_Token, await self._http.post("auth/token-form", data=self._form))
                lasts = _TOKEN_LASTS if reply.expires_in is None else timedelta(seconds=reply.expires_in)
                renew_in = max(lasts - _RENEW_BEFORE, lasts / 2)
                self._token = (reply.access_token, self._clock() + renew_in)
            return self._token[0]


def _parse(model: type[ModelT], reply: Any) -> ModelT:
    try:
        return model.model_validate(reply)
    except ValidationError as error:
        # never the reply itself: it may hold the token
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the reply"
        raise UnexpectedReplyError(f"axle: {where}: {first['msg']}") from None
