"""One simulated day of a plan: what a battery under it would do, in fast time, by the same drivers and controller."""

import csv
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from uuid import NAMESPACE_DNS, uuid5

from flux.control.decision import Decision
from flux.control.periods import instant_of
from flux.control.plan import ControllerPlan
from flux.control.state import CycleState, MarketPair, MarketState
from flux.devices.simulator import (
    BatteryConfig,
    DeviceConfig,
    LoadConfig,
    SimConfig,
    SimulatedSite,
    SolarConfig,
)
from flux.edge.fast import run_fast
from flux.errors import InputError
from flux.model import SETTLEMENT_PERIOD, Device, DeviceState, DeviceType, MeterType, Reading, parse_metadata

_USABLE_AFTER = timedelta(minutes=10)
_DAY_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class DayPoint:
    """One cycle of the day. Powers in kW: site + import, battery + discharge; None: not known then."""

    time: datetime
    soe_kwh: float | None
    site_kw: float | None
    battery_kw: float | None
    price: float | None
    mode: str | None
    limits: tuple[str, ...]


async def simulate_day(
    plan: ControllerPlan,
    day: date,
    load: LoadConfig,
    solar: SolarConfig,
    *,
    soe_pct: float = 50.0,
    market: Sequence[MarketPair] = (),
    step: timedelta | None = None,
) -> list[DayPoint]:
    """The local day ``day`` of the plan's zone, from midnight to midnight, a point for each ``step``.

    ``step`` None: the plan's interval.
    """
    start, end = instant_of(day, 0, plan.zone), instant_of(day, _DAY_S, plan.zone)
    config = _site_of(plan, load, solar, soe_pct)
    site = SimulatedSite(config, start)
    points: list[DayPoint] = []

    def observe(state: CycleState, decision: Decision, *_became: object) -> None:
        points.append(_point(state, decision))

    async def forget(readings: list[Reading]) -> None:
        del readings

    await run_fast(
        site,
        plan,
        _devices_of(site, start),
        start,
        end,
        control_interval=step or plan.interval,
        record_interval=SETTLEMENT_PERIOD,
        sink=forget,
        observe=observe,
        market=known_at(market),
    )
    return points


def _point(state: CycleState, decision: Decision) -> DayPoint:
    battery = state.battery_power or state.last_command
    pairs = state.market.pairs
    return DayPoint(
        time=state.time,
        soe_kwh=None if state.soe_kwh is None else state.soe_kwh.value,
        site_kw=None if state.site_power is None else state.site_power.value,
        battery_kw=None if battery is None else getattr(battery, "value", getattr(battery, "power_kw", None)),
        price=pairs[-1].price if pairs else None,
        mode=decision.effective,
        limits=tuple(limit.value for limit in decision.limits),
    )


def known_at(pairs: Sequence[MarketPair]) -> Callable[[datetime], MarketState]:
    """What is known of the market at an instant: a half hour's own figures from ten minutes into it."""
    ordered = sorted(pairs, key=lambda pair: pair.sp_start)
    usable = [pair.sp_start + _USABLE_AFTER for pair in ordered]

    def market(now: datetime) -> MarketState:
        count = bisect_right(usable, now)
        recent = ordered[max(0, count - 2) : count]
        return MarketState(tuple(pair for pair in recent if now - pair.sp_start < 2 * SETTLEMENT_PERIOD))

    return market


def load_market(path: Path) -> list[MarketPair]:
    """A CSV file with the columns ``time`` (start of the half hour), ``price`` (£/MWh) and ``niv_mw`` (+ short)."""
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            reader = csv.DictReader(lines)
            return [_pair(path, number, row) for number, row in enumerate(reader, start=2)]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text") from None


def _pair(path: Path, number: int, row: dict[str, str]) -> MarketPair:
    try:
        start, price, niv_mw = datetime.fromisoformat(row["time"]), float(row["price"]), float(row["niv_mw"])
    except KeyError as error:
        raise InputError(f"{path}: no column {error}; it needs time, price and niv_mw") from None
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}:{number}: {error}") from None
    if start.tzinfo is None:
        raise InputError(f"{path}:{number}: {row['time']}: needs its offset, like 2026-01-15T17:00Z")
    return MarketPair(start.astimezone(UTC), price, niv_mw)


def _site_of(plan: ControllerPlan, load: LoadConfig, solar: SolarConfig, soe_pct: float) -> SimConfig:
    """A site with the devices that the plan names, its battery shared equally among several."""
    share = len(plan.bess)
    battery = BatteryConfig(
        capacity_kwh=plan.battery.capacity_kwh / share,
        charge_limit_kw=plan.battery.charge_limit_kw / share,
        discharge_limit_kw=plan.battery.discharge_limit_kw / share,
        charge_efficiency=plan.battery.charge_efficiency,
        soe_pct=soe_pct,
    )
    batteries = [
        DeviceConfig(name=name, type=DeviceType.BESS, template="tesla_powerpack", battery=battery, port=port)
        for port, name in enumerate(plan.bess, start=20_000)
    ]
    storage = [
        _meter(name, MeterType.STORAGE, 21_000 + number, (plan.bess[number],))
        for number, name in enumerate(plan.bess_meter)
    ]
    grid = _meter(plan.site_meter, MeterType.GRID, 22_000)
    return SimConfig(
        site="SIMULATED", load=load, solar=solar, timezone=plan.timezone, devices=(*batteries, grid, *storage)
    )


def _meter(name: str, kind: MeterType, port: int, batteries: tuple[str, ...] | None = None) -> DeviceConfig:
    return DeviceConfig(
        name=name,
        type=DeviceType.METER,
        template="acuvim2_standard",
        meter_type=kind,
        port=port,
        batteries=batteries,
        ct_ratio=160,
        vt_ratio=4,
    )


def _devices_of(site: SimulatedSite, now: datetime) -> list[Device]:
    """What the registry would hold of the simulated devices."""
    return [
        Device(
            id=uuid5(NAMESPACE_DNS, one.name),
            name=one.name,
            type=one.type,
            site=site.config.site,
            metadata=parse_metadata(one.type, one.metadata, one.name),
            state=DeviceState.ACTIVE,
            created_at=now,
            updated_at=now,
        )
        for one in site.devices
    ]
