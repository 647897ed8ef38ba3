"""How long a backtest takes: a month at ten minutes, within the process and as a command, and a year at one minute.

CPU time of this process, or of the command's, counts; whatever else the machine does matters little. The plan is the
documented one (docs/examples/backtest_site.yaml), the year also with the nine modes of `decide`; load and sun are half
hours of a synthetic site, the market wanders. The ratio puts a step beside one bare call of `decide` on the same state.
"""

import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.decide import PLAN

from flux.analysis.backtest import Backtest
from flux.analysis.history import History
from flux.analysis.known import DEFAULT_DELAY, Release, released_after
from flux.analysis.simulate import simulate
from flux.config import YamlDocument
from flux.control.decide import decide
from flux.control.plan import ControllerPlan, load_plan, parse_plan
from flux.control.state import CycleState
from flux.devices.simulator.profiles import CsvProfile, SyntheticLoad, SyntheticSolar, to_us
from flux.model import GB_TIMEZONE, SETTLEMENT_PERIOD

SITE = Path(__file__).parents[1] / "docs" / "examples" / "backtest_site.yaml"
START = datetime(2024, 1, 1, tzinfo=UTC)
MONTH, YEAR = timedelta(days=31), timedelta(days=366)
AIM_MONTH_S, AIM_COMMAND_S, AIM_YEAR_S = 0.3, 1.5, 20.0
TIMES = 5


def main() -> float:
    """Print the figures; returns the seconds of CPU of the year with the documented plan."""
    history, site = history_of(YEAR), load_plan(SITE)
    month = min(seconds(backtest_of(site, history, MONTH, timedelta(minutes=10))) for _ in range(TIMES))
    print(f"month at 10 min: {month:.3f} s of CPU in the process, priced (aim < {AIM_MONTH_S} s)")
    cpu, wall = command_seconds(history)
    print(f"month at 10 min: {cpu:.2f} s of CPU, {wall:.2f} s on the wall as a command (aim < {AIM_COMMAND_S} s)")
    year = seconds(backtest_of(site, history, YEAR, timedelta(minutes=1)))
    steps = YEAR / timedelta(minutes=1)
    print(f"year at 1 min:   {year:.1f} s of CPU, {year / steps * 1e6:.1f} µs a decision (aim < {AIM_YEAR_S:.0f} s)")
    nine = seconds(backtest_of(parse_plan(YamlDocument(PLAN, "benchmark")), history, YEAR, timedelta(minutes=1)))
    print(f"year at 1 min:   {nine:.1f} s of CPU with nine modes and a holiday calendar")
    print(f"a step takes {step_ratio(site, history):.2f} × a bare decision on the same state")
    return year


def backtest_of(plan: ControllerPlan, history: History, span: timedelta, step: timedelta) -> Backtest:
    setting = history.setting(START, START + span, step, plan.battery.capacity_kwh / 2)
    releases = tuple(release for release in history.releases if release.sp_start < setting.end)
    return Backtest("benchmark", plan.model_copy(), replace(setting, releases=releases), history.tariff)


def seconds(backtest: Backtest) -> float:
    start = time.process_time()
    outcome = backtest.run()
    used = time.process_time() - start
    assert outcome.money is not None
    return used


def step_ratio(plan: ControllerPlan, history: History) -> float:
    """A step of a month at a minute beside `decide` alone."""
    setting = backtest_of(plan, history, MONTH, timedelta(minutes=1)).setting
    states: list[CycleState] = []
    simulate(plan, setting, observe=lambda state, _decision: states.append(state))
    stepped = plan.model_copy(update={"interval": setting.step})
    start = time.process_time()
    for state in states:
        decide(stepped, state)
    bare = time.process_time() - start
    start = time.process_time()
    simulate(plan, setting)
    return (time.process_time() - start) / bare


def command_seconds(history: History) -> tuple[float, float]:
    """CPU and wall seconds of `flux backtest` on files, the best of some."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, history)
        command = [sys.executable, "-m", "flux", "backtest", "--plan", str(SITE), "--from", "2024-01-01"]
        command += ["--to", "2024-02-01", "--load", str(folder / "load.csv"), "--solar", str(folder / "solar.csv")]
        command += ["--prices", str(folder / "prices.csv")]
        return min(timed(command) for _ in range(TIMES))


def timed(command: list[str]) -> tuple[float, float]:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def history_of(span: timedelta) -> History:
    """Half hours of a synthetic site, and a market that wanders; the same at every run."""
    starts = [START + number * SETTLEMENT_PERIOD for number in range(span // SETTLEMENT_PERIOD)]
    load, solar = SyntheticLoad(mean_kw=55), SyntheticSolar(peak_kw=210)
    profiles = [
        CsvProfile({at: one.at(to_us(at))[0] / 2 for at in starts}, SETTLEMENT_PERIOD, 1.0, GB_TIMEZONE)
        for one in (load, solar)
    ]
    return History(profiles[0], profiles[1], tuple(_market(starts)))


def _market(starts: list[datetime]) -> Iterator[Release]:
    source, niv_mw = random.Random(1), 0.0
    for start in starts:
        niv_mw = 0.7 * niv_mw + source.uniform(-250, 250)
        price = 75 + niv_mw / 8 + source.uniform(-25, 25)
        yield released_after(DEFAULT_DELAY, start, round(price, 2), round(niv_mw, 1))


def write(folder: Path, history: History) -> None:
    """A month of it as files."""
    month = [release for release in history.releases if release.sp_start < START + MONTH]
    for name, profile in (("load", history.load), ("solar", history.solar)):
        rows = [f"{one.sp_start.isoformat()},{profile.at(to_us(one.sp_start))[0] / 2:.6f}" for one in month]
        (folder / f"{name}.csv").write_text("\n".join(["UTCTime,energy", *rows]) + "\n")
    rows = [f"{one.sp_start.isoformat()},{one.price},{one.niv_mw}" for one in month]
    (folder / "prices.csv").write_text("\n".join(["time,price,niv_mw", *rows]) + "\n")


if __name__ == "__main__":
    main()
