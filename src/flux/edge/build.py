"""Puts a controller together: the drivers of a plan's devices, by name, become its batteries and its site meter."""

from collections.abc import Callable
from datetime import datetime

from flux.control.feed import Outside
from flux.control.plan import ControllerPlan
from flux.control.state import SetPoint
from flux.devices.driver import DeviceDriver
from flux.edge.control_loop import SiteController
from flux.edge.controlled import ControlledBattery, Tell
from flux.edge.decisions import Observer, observe_nothing
from flux.edge.newest import NewestPolls
from flux.edge.ticks import Clock


def build_controller(
    plan: ControllerPlan,
    drivers: dict[str, DeviceDriver],
    newest: NewestPolls,
    *,
    clock: Clock,
    halt: Callable[[], str | None] = lambda: None,
    withheld: Callable[[], str | None] = lambda: None,
    observe: Observer = observe_nothing,
    outside: Callable[[datetime], Outside] = lambda _now: Outside(),
    by_hand: Callable[[datetime], SetPoint | None] = lambda _now: None,
    tell: Tell = lambda _key, _text: None,
    quiet: bool = False,
) -> SiteController:
    """The controller of ``plan`` over drivers by device name; the plan has been checked against them.

    ``quiet``: without a line in the log for each change of mind (a week in fast time has thousands).
    """
    meters: list[DeviceDriver | None] = [drivers[name] for name in plan.bess_meter]
    meters = meters or [None] * len(plan.bess)
    share_kwh = plan.battery.capacity_kwh / len(plan.bess)
    limit_kw = max(plan.battery.charge_limit_kw, plan.battery.discharge_limit_kw) / len(plan.bess)
    batteries = [
        ControlledBattery(
            drivers[name],
            meter,
            newest,
            share_kwh,
            limit_kw=limit_kw,
            interval=plan.interval,
            clock=clock,
            tell=tell,
        )
        for name, meter in zip(plan.bess, meters, strict=True)
    ]
    return SiteController(
        plan,
        batteries,
        drivers[plan.site_meter],
        newest,
        clock=clock,
        halt=halt,
        withheld=withheld,
        tell=tell,
        observe=observe,
        outside=outside,
        by_hand=by_hand,
        quiet=quiet,
    )
