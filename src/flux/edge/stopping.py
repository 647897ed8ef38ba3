"""What ``flux control stop`` and ``resume`` do: in the state folder of this host's edge, and at the platform."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from flux.edge.status import STATUS_FILE
from flux.edge.stops import OtherMasterFile, StopFile
from flux.edge.ticks import Clock, Sleep, system_clock
from flux.model import InputError, UnavailableError
from flux.registry.for_edges import StopOrder
from flux.store import ownership
from flux.store.db import connect

_LOOK_EVERY_S = 0.1
_FRESH = timedelta(seconds=10)
_PLATFORM_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an order: whether all batteries acknowledged, and in words what was reached and what not."""

    done: bool
    words: str


class PlatformOrders(Protocol):
    """Orders to a site by way of the platform; UnavailableError when it can't be reached."""

    async def stop(self, actor: str, reason: str) -> None:
        """Stop the site."""

    async def resume(self, actor: str) -> bool:
        """End the platform's stop; False when it had none."""

    async def acknowledged(self) -> bool:
        """Whether every battery is known to have acknowledged the stop that holds."""


class SqlOrders:
    """Orders by the platform's database; ``dsn`` raises UnavailableError when there is none."""

    def __init__(self, site: str, dsn: Callable[[], str]) -> None:
        self._site = site
        self._dsn = dsn

    async def stop(self, actor: str, reason: str) -> None:
        async with await connect(self._dsn(), autocommit=True) as conn:
            await ownership.stop_site(conn, self._site, actor=actor, reason=reason)

    async def resume(self, actor: str) -> bool:
        async with await connect(self._dsn(), autocommit=True) as conn:
            return await ownership.resume_site(conn, self._site, actor=actor)

    async def acknowledged(self) -> bool:
        async with await connect(self._dsn(), autocommit=True) as conn:
            stop = await ownership.stop_in_force(conn, self._site)
        return stop is not None and stop.acknowledged_at is not None


class SiteControl:
    """Stops and resumes one site from wherever the command is typed: its edge's host, the platform, or both in one."""

    def __init__(
        self,
        site: str,
        state_dir: Path,
        orders: PlatformOrders,
        *,
        clock: Clock = system_clock,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._site = site
        self._state_dir = state_dir
        self._orders = orders
        self._clock = clock
        self._sleep = sleep

    async def stop(self, actor: str, reason: str, wait: timedelta) -> Outcome:
        """Stop, and wait for the batteries to acknowledge 0 kW; UnavailableError when nothing could be told."""
        began = self._clock()
        here = self._stop_here(StopOrder(actor, reason, began))  # first: it needs nobody else
        refusal = await self._platform(lambda: self._orders.stop(actor, reason))
        if not here and refusal is not None:
            raise UnavailableError(
                f"site {self._site} was not reached: no edge has its state in {self._state_dir} on this host, and "
                f"{refusal}"
            )
        on_platform = refusal is None
        where = _where(here, on_platform, refusal)
        while self._clock() - began < wait:
            who = self._acknowledged_here(began) if here else None
            if who is None and on_platform:
                who = await self._acknowledged_there()
            if who is not None:
                seconds = (self._clock() - began).total_seconds()
                return Outcome(True, f"site {self._site} is stopped ({where}); {who} after {seconds:.1f} s")
            await self._sleep(_LOOK_EVERY_S)
        return Outcome(
            False, f"site {self._site} has a stop ({where}), but {self._why_not(here)}; it holds from now on"
        )

    async def resume(self, actor: str) -> Outcome:
        """End every stop that can be reached, and what is remembered of other masters."""
        try:
            stopped_here = StopFile(self._state_dir).clear()
            others = OtherMasterFile(self._state_dir).clear()
        except OSError as error:
            raise InputError(f"{self._state_dir}: {error.strerror}") from None
        stopped_there = False

        async def resume() -> None:
            nonlocal stopped_there
            stopped_there = await self._orders.resume(actor)

        refusal = await self._platform(resume)
        if refusal is not None and not self._state_dir.is_dir():
            raise UnavailableError(f"site {self._site} was not reached: {refusal}")
        ended = [
            words
            for was, words in (
                (stopped_here, "the stop on this host"),
                (stopped_there, "the platform's stop"),
                (others, "the hold because somebody else commanded a battery"),
            )
            if was
        ]
        words = f"site {self._site}: {' and '.join(ended)} ended" if ended else f"site {self._site} had no stop here"
        if refusal is not None:
            words += f"; a stop of the platform, if there is one, goes on: {refusal}"
        elif not self._state_dir.is_dir():
            words += "; a stop typed on the edge's own host, if there is one, goes on until it is resumed there"
        return Outcome(refusal is None or stopped_here or others, words)

    def _stop_here(self, order: StopOrder) -> bool:
        """False: this host has no edge of the site."""
        if not self._state_dir.is_dir():
            return False
        try:
            StopFile(self._state_dir).set(order)
        except OSError as error:
            if not StopFile(self._state_dir).path.exists():
                raise InputError(f"{self._state_dir}: the stop can't be written ({error.strerror})") from None
        return True

    async def _platform(self, order: Callable[[], Awaitable[Any]]) -> str | None:
        """Tell the platform; why it was not reached, or None. What is wrong with the order itself is raised."""
        try:
            async with asyncio.timeout(_PLATFORM_TIMEOUT_S):
                await order()
        except TimeoutError:
            return f"the platform did not answer within {_PLATFORM_TIMEOUT_S:g} s"
        except UnavailableError as error:
            return str(error)
        return None

    async def _acknowledged_there(self) -> str | None:
        known: list[bool] = []

        async def look() -> None:
            known.append(await self._orders.acknowledged())

        if await self._platform(look) is not None or not known[0]:
            return None
        return "its edge says that every battery acknowledged 0 kW"

    def _acknowledged_here(self, began: datetime) -> str | None:
        """What the edge on this host says of it, in words, once all batteries have acknowledged 0 kW."""
        status = self._status()
        if status is None or datetime.fromisoformat(status["time"]) < began or not status["running"]:
            return None
        controller = status["controller"]
        if controller is None:
            return "its edge here controls nothing"
        if controller["withheld"] is not None or not controller["stop_acknowledged"]:
            return None
        return f"{', '.join(one['name'] for one in controller['batteries'])} acknowledged 0 kW"

    def _why_not(self, here: bool) -> str:
        status = self._status() if here else None
        if status is None:
            return "its edge has not told yet that the batteries acknowledged 0 kW"
        if not status["running"] or self._clock() - datetime.fromisoformat(status["time"]) > _FRESH:
            return "no edge of it runs on this host, so the batteries go by their own command timeout"
        if status["controller"] is not None and status["controller"]["withheld"] is not None:
            return f"its edge here may not command: {status['controller']['withheld']}"
        texts = [alarm["text"] for alarm in status["alarms"] if alarm["key"].startswith(("command:", "other_master:"))]
        return "; ".join(["0 kW was not acknowledged yet", *texts])

    def _status(self) -> dict[str, Any] | None:
        try:
            status: dict[str, Any] = json.loads((self._state_dir / STATUS_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return status


def _where(here: bool, on_platform: bool, refusal: str | None) -> str:
    if here and on_platform:
        return "on this host and at the platform"
    return "at the platform" if on_platform else f"on this host; {refusal}"


async def stop_site(control: SiteControl, actor: str, reason: str, wait: timedelta) -> str:
    """Stop; the words to print. UnavailableError with them when 0 kW was not acknowledged in time."""
    outcome = await control.stop(actor, reason, wait)
    if not outcome.done:
        raise UnavailableError(outcome.words)
    return outcome.words


async def resume_site(control: SiteControl, actor: str) -> str:
    """Resume; the words to print. UnavailableError with them when nothing that stops could be reached."""
    outcome = await control.resume(actor)
    if not outcome.done:
        raise UnavailableError(outcome.words)
    return outcome.words
