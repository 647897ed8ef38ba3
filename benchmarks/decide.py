"""How long a decision takes with nine modes configured, and how many steps a second a replay makes.

One process, one core; what counts is this process's CPU time, so that whatever else the machine does matters little.
The steps are five minutes apart over most of a year, so that every mode has its hours, with
random demand, SoE and market. The ratio puts a replayed step beside what no replay can do without: the same line read
by the standard library's ``json`` and its decision written by it.
"""

import json
import random
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from flux.config import YamlDocument
from flux.control.plan import ControllerPlan, parse_plan
from flux.control.replay import Replay, replay
from flux.control.steps import decision_line, parse_step

STEPS = 100_000
DECISIONS = 20_000
AIM_P99_MS = 1.0
AIM_REPLAY_S = 10.0

PLAN = """\
site_meter: WLCE-GRID-METER
bess: [WLCE-BESS-01]
holidays: GB-ENG
battery: {capacity_kwh: 500, charge_efficiency: 0.9, charge_limit_kw: 100, discharge_limit_kw: 105,
          soe_min_kwh: 25, soe_max_kwh: 475}
site: {import_limit_kw: 220, export_limit_kw: 475}
rates: {import: [{name: red, price: 113.85, periods: [{days: weekdays, start: "17:00", end: "19:00"}]}]}
modes:
  - {mode: axle}
  - {mode: discharge_to_soe, soe_kwh: 70, periods: [{start: "13:30", end: "14:00"}]}
  - {mode: dynamic_peak_discharge, periods: [{days: weekdays, start: "17:00", end: "19:00"}], target_soe_kwh: 100,
     prioritise_residual_load: true, when_short: {guess: true, cutoff: 20m}}
  - {mode: niv_chase, charge_curve: [[-.inf, 475], [0, 475], [200, 0]],
     discharge_curve: [[300, 475], [400, 0], [.inf, 0]], shift_long: 60, shift_short: 20,
     when_short: {guess: true, min_niv_mw: 400, cutoff: 15m}, when_long: {guess: true, min_niv_mw: 6, cutoff: 15m},
     default_prices: [{price: 80}]}
  - {mode: charge_to_soe, soe_kwh: 130, periods: [{start: "02:00", end: "05:00"}]}
  - {mode: dynamic_peak_approach, peak: {days: weekdays, start: "17:00", end: "19:00"}, to_soe_kwh: 400,
     encourage_to_soe_kwh: 450, assumed_charge_power_kw: 90, encourage_duration_factor: 2.0, cushion: 20m,
     when_long: {guess: true, cutoff: 20m}}
  - {mode: import_avoidance, periods: [{start: "16:00", end: "21:00"}]}
  - {mode: export_avoidance}
  - {mode: import_avoidance_when_short, when_short: {guess: true, cutoff: 20m}}
"""


def main() -> float:
    """Print both figures; returns the replay's seconds for 100,000 steps."""
    plan = parse_plan(YamlDocument(PLAN, "benchmark"))
    lines = list(steps(STEPS))
    p50, p99 = decision_ms(plan, lines[:DECISIONS])
    print(f"decide: nine modes, p50 {p50:.3f} ms, p99 {p99:.3f} ms (aim < {AIM_P99_MS} ms)")
    seconds, bare = replay_seconds(plan, lines)
    rate = STEPS / seconds
    print(
        f"replay: {rate:,.0f} steps/s, {STEPS:,} steps in {seconds:.1f} s of CPU (aim < {AIM_REPLAY_S:.0f} s),"
        f" {seconds / bare:.1f} × the time of reading and writing the JSON alone"
    )
    return seconds


def steps(count: int) -> Iterator[str]:
    """Steps of a replay, the same at every run."""
    source = random.Random(1)
    for number in range(count):
        now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=5) * number
        period = now.replace(minute=now.minute // 30 * 30)
        about = {"sp_start": _text(period if source.random() < 0.7 else period - timedelta(minutes=30))}
        step = {
            "time": _text(now),
            "soe_kwh": round(source.uniform(20, 480), 2),
            "net_load_kw": round(source.uniform(-300, 300), 3),
            "market": {
                "price": {"value": round(source.uniform(-50, 500), 2), **about},
                "niv": {"value_mw": round(source.uniform(-500, 500), 1), **about},
            },
            "site": {"import_limit_kw": 220, "export_limit_kw": 475},
        }
        if number % 12 == 0:
            end = _text(now + timedelta(minutes=30))
            action = source.choice(["charge_max", "discharge_max", "avoid_import", "avoid_export"])
            step["schedule"] = [{"start": _text(now), "end": end, "action": action}]
        yield json.dumps(step)


def decision_ms(plan: ControllerPlan, lines: list[str]) -> tuple[float, float]:
    """Median and 99th percentile of one decision, its state already read."""
    session, parsed, times = Replay(plan), [parse_step(line) for line in lines], []
    for step in parsed:
        start = time.process_time()
        session.decide(step)
        times.append((time.process_time() - start) * 1000)
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def replay_seconds(plan: ControllerPlan, lines: list[str]) -> tuple[float, float]:
    """Seconds for a whole replay, text to text, and for reading and writing the same JSON alone."""
    start = time.process_time()
    written = [decision_line(decision) for decision in replay(plan, lines)]
    seconds = time.process_time() - start
    outcomes = [json.loads(line) for line in written]
    start = time.process_time()
    for line, outcome in zip(lines, outcomes, strict=True):
        json.loads(line)
        json.dumps(outcome)
    return seconds, time.process_time() - start


def _text(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


if __name__ == "__main__":
    main()
