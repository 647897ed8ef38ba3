"""What each kind of job does at the site: scan, test, set-point, stop."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from flux.control.decide import BY_HAND
from flux.control.state import SetPoint
from flux.devices import discovery
from flux.devices.client import ConnectionPool
from flux.devices.driver import DeviceDriver, Poll, driver_for
from flux.devices.template import DeviceTemplate, builtin_template, builtin_template_names
from flux.edge.by_hand import ByHand
from flux.edge.control_loop import SiteController
from flux.edge.link import JobAnswer, PlatformLink
from flux.edge.site import Site, SiteDevice
from flux.edge.ticks import Clock, Sleep
from flux.model import (
    Device,
    DeviceError,
    DeviceId,
    DeviceState,
    FluxError,
    Job,
    NotFoundError,
    RefusedError,
    ScanArgs,
    SetPointArgs,
    StopArgs,
    TestArgs,
    UnavailableError,
)

_LOOK_EVERY_S = 0.1
_ACKNOWLEDGED_WITHIN_S = 15.0
_STOPPED_WITHIN_S = 60.0
_SCANNED_AT_ONCE = 64
_CATCH_UP_S = 5.0
_TESTED = frozenset({DeviceState.CONFIGURED, DeviceState.TESTING, DeviceState.FAILED})


class JobKinds:
    """Runs jobs on one site.

    ``stopped``: why operators want the site at 0 kW; None: they do not. ``look`` takes up the registry as it is now.
    """

    def __init__(
        self,
        site: Site,
        by_hand: ByHand,
        link: PlatformLink,
        *,
        stopped: Callable[[], str | None],
        look: Callable[[], Awaitable[None]],
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._site = site
        self._by_hand = by_hand
        self._link = link
        self._stopped = stopped
        self._look = look
        self._clock = clock
        self._sleep = sleep
        self._scanning = asyncio.Lock()

    async def run(self, job: Job) -> JobAnswer:
        """Raises FluxError for one that fails."""
        match job.arguments:
            case ScanArgs() as args:
                async with self._scanning:
                    return JobAnswer(await self._scan(args))
            case TestArgs() as args:
                await self._catch_up()
                return JobAnswer(await self._test(args))
            case SetPointArgs() as args:
                await self._catch_up()
                return JobAnswer(await self._set_point(args, job.created_by))
            case StopArgs():
                return JobAnswer(await self._stop())

    async def _catch_up(self) -> None:
        """A job can come before what was done ahead of it: a device that was added, a stop, a resume."""
        try:
            async with asyncio.timeout(_CATCH_UP_S):
                await self._look()
        except (UnavailableError, TimeoutError):  # what is known counts, as for everything else meanwhile
            return

    async def _scan(self, args: ScanArgs) -> dict[str, Any]:
        """Devices that are polled are left out: many take one connection only."""
        polled = {
            one.device.metadata.host for one in self._site.devices.values() if one.poller is not None
        }  # by host: a gateway has several devices behind one address
        hosts = [host for host in discovery.targets(args.ranges) if host not in polled]
        options = discovery.ScanOptions(
            args.ports, tuple(discovery.parse_units(args.units)), args.timeout_s, at_once=_SCANNED_AT_ONCE
        )
        ports = await discovery.scan(hosts, options, self._templates())
        return {
            "asked": len(hosts) * len(args.ports),
            "found": [asdict(unit) for port in ports for unit in port.units],
            "problems": [{"host": p.host, "port": p.port, "problem": p.problem} for p in ports if p.problem],
            "left_out": sorted(host for host in polled if host is not None),
        }

    def _templates(self) -> list[DeviceTemplate]:
        """Those that come with Flux, and those of the site's devices."""
        known = {name: builtin_template(name) for name in builtin_template_names()}
        known |= {one.template.name: one.template for one in self._site.devices.values()}
        return list(known.values())

    async def _test(self, args: TestArgs) -> dict[str, Any]:
        one = self._device(args.device)
        device = one.device
        if device.state in (DeviceState.MAINTENANCE, DeviceState.REGISTERED):
            raise RefusedError(f"{device.name} is in state {device.state}: it is not polled")
        if device.state in _TESTED and device.state is not DeviceState.TESTING:
            await self._report(device, DeviceState.TESTING, "a test was ordered")
        failure, result = await self._poll(one)
        if device.state in _TESTED:
            await self._report(device, DeviceState.ACTIVE if failure is None else DeviceState.FAILED, result["words"])
        return {"failure": failure, **result}

    async def _poll(self, one: SiteDevice) -> tuple[str | None, dict[str, Any]]:
        """One poll: by the poller's own connection, which takes turns, or by one for this alone."""
        try:
            if one.poller is not None:
                poll = await one.driver.poll()
            else:
                async with ConnectionPool() as pool:
                    poll = await self._own_driver(one, pool).poll()
        except DeviceError as error:
            return str(error), {"words": str(error), "response_time_ms": None, "values": {}, "problems": []}
        return _judged(one.device, poll)

    def _own_driver(self, one: SiteDevice, pool: ConnectionPool) -> DeviceDriver:
        return driver_for(one.device, one.template, pool, self._clock, without_timeout=True)

    async def _report(self, device: Device, state: DeviceState, why: str) -> None:
        """What the registry does not allow any more it keeps as it is: somebody changed it meanwhile."""
        while True:
            try:
                await self._link.report_state(DeviceId(device.id), state, why)
            except (RefusedError, NotFoundError):
                return
            except UnavailableError:
                await self._sleep(1.0)
            else:
                return

    def _device(self, name: str) -> SiteDevice:
        for one in self._site.devices.values():
            if one.device.name == name:
                return one
        raise NotFoundError(f"this edge can't talk to {name}: it has no template or no host, or is not in the registry")

    async def _set_point(self, args: SetPointArgs, actor: str) -> dict[str, Any]:
        controller = self._commanding(args.device)
        if args.power_kw is None or args.until is None:
            ended = self._by_hand.end(f"{actor} ended it")
            await self._site.wake()
            return {"ended": ended}
        now = self._clock()
        if args.until <= now:
            raise RefusedError(f"it was to end at {args.until.isoformat()}, which is over")
        given = SetPoint(args.device, args.power_kw, args.until, actor)
        self._by_hand.give(given)
        try:
            await self._site.wake()
            await self._until(lambda: self._took(given, now), _ACKNOWLEDGED_WITHIN_S)
        except (FluxError, TimeoutError, asyncio.CancelledError) as error:
            if self._by_hand.at(self._clock(), None) is given:
                self._by_hand.end("it was not acknowledged")
            if isinstance(error, asyncio.CancelledError):
                raise
            last = controller.last
            why = self._by_hand.ended or (last.reason if last is not None else "nothing was decided")
            raise UnavailableError(f"{args.device} did not acknowledge it: {why}") from None
        return self._in_force(args)

    def _commanding(self, name: str) -> SiteController:
        """The controller, which may command the battery ``name`` now; RefusedError says why not."""
        controller = self._site.controller
        if controller is None or name not in controller.plan.bess:
            raise RefusedError(f"no plan of this edge commands {name}")
        if (reason := self._site.halted()) is not None:
            raise RefusedError(f"control rests: {reason}")
        if (reason := controller.withheld) is not None:
            raise RefusedError(f"nothing is sent: {reason}")
        battery = next(one for one in controller.batteries if one.name == name)
        if battery.other_master is not None:
            raise RefusedError(f"{name} is commanded by somebody else: {battery.other_master}")
        return controller

    def _took(self, given: SetPoint, since: datetime) -> bool:
        """Whether a decision by the set-point was carried out; RefusedError once it has ended before that."""
        if self._by_hand.at(self._clock(), None) is not given:
            raise RefusedError(f"it ended: {self._by_hand.ended}")
        controller = self._site.controller
        decision = controller.last if controller is not None else None
        if controller is None or decision is None or decision.effective != BY_HAND or decision.time < since:
            return False
        battery = next((one for one in controller.batteries if one.name == given.battery), None)
        return battery is not None and battery.holds_a_command(self._clock())

    def _in_force(self, args: SetPointArgs) -> dict[str, Any]:
        controller = self._site.controller
        decision = controller.last if controller is not None else None
        now = self._clock()
        battery = next(one for one in (controller.batteries if controller else ()) if one.name == args.device)
        return {
            "asked_kw": args.power_kw,
            "acknowledged_kw": battery.commanded_kw(now),
            "limits": [limit.value for limit in decision.limits] if decision is not None else [],
            "reason": decision.reason if decision is not None else "",
            "until": args.until.isoformat() if args.until is not None else None,
        }

    async def _stop(self) -> dict[str, Any]:
        """The stop itself comes with the registry; this says when it was carried out."""

        def carried_out() -> bool:
            controller = self._site.controller
            return self._stopped() is not None and (controller is None or controller.stop_acknowledged)

        try:
            await self._until(carried_out, _STOPPED_WITHIN_S)
        except TimeoutError:
            why = self._stopped() or "the edge has not heard of the stop yet"
            raise UnavailableError(f"not every battery has acknowledged 0 kW: {why}") from None
        controller = self._site.controller
        batteries = [battery.name for battery in controller.batteries] if controller is not None else []
        return {"acknowledged": batteries, "reason": self._stopped()}

    async def _until(self, done: Callable[[], bool], within_s: float) -> None:
        """TimeoutError when it is not so in time."""
        async with asyncio.timeout(within_s):
            while not done():
                await self._sleep(_LOOK_EVERY_S)


def _judged(device: Device, poll: Poll) -> tuple[str | None, dict[str, Any]]:
    answered_ms = poll.response_time_s * 1000
    failure = None
    if all(value is None for value in poll.values.values()):
        failure = f"{device.name}: it answers, but nothing that it says is plausible: {'; '.join(poll.problems)}"
    values = {name: value if isinstance(value, int | float | str) else None for name, value in poll.values.items()}
    words = failure or f"it answered in {answered_ms:.0f} ms"
    return failure, {
        "words": words,
        "response_time_ms": round(answered_ms, 1),
        "values": values,
        "problems": list(poll.problems),
    }
