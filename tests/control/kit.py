"""Short ways to say a plan and a state in the tests of the controller."""

from datetime import UTC, datetime, timedelta
from typing import Any

from flux.config import YamlDocument
from flux.control.decide import decide
from flux.control.decision import Decision
from flux.control.plan import ControllerPlan, parse_plan
from flux.control.state import (
    AcknowledgedCommand,
    CycleState,
    MarketPair,
    MarketState,
    Measurement,
    Memory,
    ScheduleStep,
    SiteLimits,
)

SAMPLE = """\
controller:
  site_meter: WLCE-GRID-METER
  bess: [WLCE-BESS-01]
  bess_meter: [WLCE-BESS-METER]
  interval: 4s
  max_reading_age: 10s
  timezone: Europe/London
  holidays: null
  battery:
    capacity_kwh: 500
    charge_efficiency: 0.9
    charge_limit_kw: 100
    discharge_limit_kw: 105
    soe_min_kwh: 25
    soe_max_kwh: 475
  site: {import_limit_kw: 220, export_limit_kw: 475}
  rates:
    import: [{name: DUoS red, price: 113.85, periods: [{days: weekdays, start: "17:00", end: "19:00"}]}]
    export: []
  modes:
    - {mode: axle}
    - {mode: discharge_to_soe, soe_kwh: 70, periods: [{days: all, start: "13:30", end: "14:00"}]}
    - mode: dynamic_peak_discharge
      periods: [{days: weekdays, start: "17:00", end: "19:00"}]
      target_soe_kwh: 100
      prioritise_residual_load: true
      when_short: {guess: true, min_niv_mw: 0, cutoff: 20m}
    - mode: niv_chase
      periods: [{days: all, start: "00:00", end: "24:00"}]
      charge_curve: [[-.inf, 475], [0, 475], [200, 0]]
      discharge_curve: [[300, 475], [400, 0], [.inf, 0]]
      shift_long: 60
      shift_short: 20
      when_short: {guess: true, min_niv_mw: 400, cutoff: 15m}
      when_long: {guess: true, min_niv_mw: 6, cutoff: 15m}
      default_prices: [{price: 80, periods: [{days: all, start: "00:00", end: "24:00"}]}]
    - {mode: charge_to_soe, soe_kwh: 130, periods: [{days: all, start: "02:00", end: "05:00"}]}
    - mode: dynamic_peak_approach
      peak: {days: weekdays, start: "17:00", end: "19:00"}
      to_soe_kwh: 400
      encourage_to_soe_kwh: 450
      assumed_charge_power_kw: 90
      force_duration_factor: 1.0
      encourage_duration_factor: 2.0
      cushion: 20m
      when_long: {guess: true, min_niv_mw: 0, cutoff: 20m}
    - {mode: import_avoidance, periods: [{days: all, start: "16:00", end: "21:00"}]}
    - {mode: export_avoidance, periods: [{days: all, start: "00:00", end: "24:00"}]}
    - mode: import_avoidance_when_short
      periods: [{days: all, start: "00:00", end: "24:00"}]
      when_short: {guess: true, min_niv_mw: 0, cutoff: 20m}
"""
"""The plan of the worked cases: nine modes, in the usual order."""

HEAD = SAMPLE[: SAMPLE.index("  rates:")]
ALL_DAY = 'periods: [{start: "00:00", end: "24:00"}]'


def plan_of(*modes: str, rates: str = "", head: str = HEAD, allow_overlaps: bool = False) -> ControllerPlan:
    """A plan with the sample's battery and site and these modes, each in YAML's flow style without its braces."""
    text = head + (f"  rates: {rates}\n" if rates else "")
    text += "  modes: [" + ", ".join("{mode: " + mode + "}" for mode in modes) + "]\n"
    return parse_plan(YamlDocument(text, "site.yaml"), allow_overlaps=allow_overlaps)


def sample_plan() -> ControllerPlan:
    return parse_plan(YamlDocument(SAMPLE, "site.yaml"))


def at(text: str) -> datetime:
    """``2026-01-15 17:05`` in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def market(sp: str, price: float, niv: float) -> MarketState:
    return MarketState((MarketPair(at(sp), price, niv),))


def schedule(*steps: tuple[str, str, str]) -> tuple[ScheduleStep, ...]:
    return tuple(ScheduleStep(at(start), at(end), action) for start, end, action in steps)


def state(time: str, soe: float | None, site: float | None, battery: float | None = 0.0, **more: Any) -> CycleState:
    """A state whose readings are all from now; ``site`` is the grid meter, ``battery`` is measured."""
    now = at(time)
    return CycleState(
        time=now,
        site_power=None if site is None else Measurement(site, now),
        soe_kwh=None if soe is None else Measurement(soe, now),
        battery_power=None if battery is None else Measurement(battery, now),
        **more,
    )


def run(plan: ControllerPlan, time: str, soe: float, load: float, **more: Any) -> Decision:
    """Decide with the battery at rest, so that ``load`` is both the site's power and its power at rest."""
    return decide(plan, state(time, soe, load, **more))


__all__ = [
    "ALL_DAY",
    "HEAD",
    "SAMPLE",
    "AcknowledgedCommand",
    "Memory",
    "SiteLimits",
    "at",
    "market",
    "plan_of",
    "run",
    "sample_plan",
    "schedule",
    "state",
    "timedelta",
]
