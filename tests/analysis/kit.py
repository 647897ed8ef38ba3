"""What tests of backtests share: a plan with modes that follow the market, and history that is easy to write."""

from datetime import UTC, datetime, timedelta
from typing import Any

from flux.analysis.known import DEFAULT_DELAY, Release, released_after
from flux.analysis.simulate import Setting, simulate
from flux.config import YamlDocument
from flux.control.decision import Decision
from flux.control.plan import ControllerPlan, parse_plan
from flux.devices.simulator.profiles import Constant, Profile
from flux.model import SETTLEMENT_PERIOD

START = datetime(2026, 1, 14, tzinfo=UTC)  # a Wednesday
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)

HEAD = """\
site_meter: WLCE-GRID-METER
bess: [WLCE-BESS-01]
bess_meter: [WLCE-BESS-METER]
battery: {capacity_kwh: 500, charge_efficiency: 0.9, charge_limit_kw: 100, discharge_limit_kw: 105,
          soe_min_kwh: 25, soe_max_kwh: 475}
site: {import_limit_kw: 220, export_limit_kw: 475}
"""
IMPORT_AVOIDANCE = HEAD + "modes: [{mode: import_avoidance}]\n"
MARKET = (
    HEAD
    + """\
modes:
  - {mode: discharge_to_soe, soe_kwh: 70, periods: [{start: "13:30", end: "14:00"}]}
  - {mode: dynamic_peak_discharge, periods: [{days: weekdays, start: "17:00", end: "19:00"}], target_soe_kwh: 100,
     prioritise_residual_load: true, when_short: {guess: true, cutoff: 20m}}
  - {mode: niv_chase, charge_curve: [[-.inf, 475], [0, 475], [200, 0]],
     discharge_curve: [[300, 475], [400, 0], [.inf, 0]], shift_long: 60, shift_short: 20,
     when_short: {guess: true, min_niv_mw: 40, cutoff: 15m}, when_long: {guess: true, min_niv_mw: 6, cutoff: 15m}}
  - {mode: dynamic_peak_approach, peak: {days: weekdays, start: "17:00", end: "19:00"}, to_soe_kwh: 400,
     encourage_to_soe_kwh: 450, assumed_charge_power_kw: 90, encourage_duration_factor: 2.0, cushion: 20m,
     when_long: {guess: true, cutoff: 20m}}
  - {mode: import_avoidance, periods: [{start: "16:00", end: "21:00"}]}
  - {mode: import_avoidance_when_short, when_short: {guess: true, cutoff: 20m}}
"""
)


def plan_of(text: str = IMPORT_AVOIDANCE) -> ControllerPlan:
    return parse_plan(YamlDocument(text, "plan.yaml"))


def setting_of(**changes: Any) -> Setting:
    """A day at 40 kW from 250 kWh on, in steps of ten minutes, without sun or market."""
    load: Profile = Constant(40.0)
    start = changes.pop("start", START)
    given: dict[str, Any] = {
        "load": load,
        "solar": Constant(0.0),
        "releases": (),
        "start": start,
        "end": start + 24 * HOUR,
        "step": 10 * MINUTE,
        "start_soe_kwh": 250.0,
    }
    return Setting(**given | changes)


def half_hours(figures: list[tuple[float, float]], start: datetime = START) -> tuple[Release, ...]:
    """Price and NIV of one half hour after the other, each known ten minutes into it."""
    return tuple(
        released_after(DEFAULT_DELAY, start + number * SETTLEMENT_PERIOD, price, niv_mw)
        for number, (price, niv_mw) in enumerate(figures)
    )


def decisions_of(plan: ControllerPlan, setting: Setting) -> list[Decision]:
    found: list[Decision] = []
    simulate(plan, setting, observe=lambda _state, decision: found.append(decision))
    return found
