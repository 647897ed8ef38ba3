"""How long the optimum of a month of 10-minute steps takes, and of a year of them.

One process; what counts is its CPU time. Prices, load and sun are made up, the same at every run: half-hourly prices
that swing through the day, some below 0, with a site, rates and limits that bind.
"""

import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from flux.analysis.flows import Flow
from flux.analysis.optimum import Optimum, OptimumInputs, optimum
from flux.analysis.timeline import Timeline
from flux.control.parts import BatteryConfig, SiteConfig

STEP = timedelta(minutes=10)
AIM_S = 2.0


def main() -> float:
    """Print both figures; returns the seconds of the month."""
    month, found = seconds_for(31)
    print(
        f"optimum: a month of 10-minute steps in {month:.2f} s of CPU (aim < {AIM_S:.0f} s),"
        f" {found.cycles:.0f} cycles, £{found.earned:,.0f} earned, {found.binaries} binaries"
    )
    year, found = seconds_for(365)
    print(f"optimum: a year of them in {year:.2f} s of CPU, {found.cycles:.0f} cycles, {found.binaries} binaries")
    return month


def seconds_for(days: int) -> tuple[float, Optimum]:
    """Seconds of CPU for so many days."""
    inputs = inputs_for(days)
    start = time.process_time()
    found = optimum(inputs)
    return time.process_time() - start, found


def inputs_for(days: int) -> OptimumInputs:
    """A site with 54 homes, 210 kWp and a battery of 1,280 kWh."""
    generator, halves = np.random.default_rng(1), 48 * days
    clock = np.arange(halves) % 48 / 2
    price = 70 + 35 * np.sin((clock - 12) / 24 * 2 * np.pi) + generator.normal(0, 35, halves)
    load = 35 + 20 * np.exp(-(((clock - 18.5) / 2.5) ** 2)) + generator.uniform(0, 10, halves)
    sun = 60 * np.exp(-(((clock - 12.5) / 2) ** 2)) * generator.uniform(0, 1, halves)
    each = timedelta(minutes=30) // STEP
    into, out = np.repeat(price * 1.11 + 25, each), np.repeat(-price * 1.05, each)
    zero = np.zeros(halves * each)
    rates = dict.fromkeys(Flow, zero)
    rates |= {Flow.GRID_TO_LOAD: into, Flow.GRID_TO_BATTERY: into, Flow.SOLAR_TO_GRID: out, Flow.BATTERY_TO_GRID: out}
    return OptimumInputs(
        timeline=Timeline(datetime(2024, 1, 1, tzinfo=UTC), STEP, halves * each),
        battery=BatteryConfig(
            capacity_kwh=1280, charge_efficiency=0.85, charge_limit_kw=565, discharge_limit_kw=565, soe_min_kwh=64
        ),
        site=SiteConfig(import_limit_kw=220, export_limit_kw=475),
        load_kwh=np.repeat(load / each, each),
        solar_kwh=np.repeat(sun / each, each),
        rates=rates,
        start_soe_kwh=640.0,
        zone=ZoneInfo("Europe/London"),
    )


if __name__ == "__main__":
    main()
