"""Where a backtest's history comes from when it is files: half-hour energies, prices and NIV as CSV."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from zoneinfo import ZoneInfo

from flux.analysis.cells import instant_in, number_in, table_of
from flux.analysis.known import Release
from flux.analysis.simulate import Setting
from flux.analysis.tariff import Tariff, imbalance_tariff
from flux.analysis.told import Told
from flux.devices.simulator.profiles import Constant, Profile, SyntheticLoad, SyntheticSolar, load_csv_profile
from flux.errors import InputError
from flux.model import SETTLEMENT_PERIOD, period_start

_HOURS_PER_PERIOD = SETTLEMENT_PERIOD / timedelta(hours=1)
_COLUMNS = ("price", "niv_mw", "volume", "day_ahead")


@dataclass(frozen=True, slots=True)
class History:
    """What a site used and made, what the market said when, and what the site was told.

    ``day_ahead``: £/MWh by the start of each half hour. ``notices``: what weakens it, in words.
    """

    load: Profile
    solar: Profile
    releases: tuple[Release, ...] = ()
    day_ahead: Mapping[datetime, float] = field(default_factory=dict)
    told: Told = field(default_factory=Told)
    notices: tuple[str, ...] = ()

    @property
    def tariff(self) -> Tariff | None:
        """What is paid where no tariff is given: the imbalance price, both ways; nothing where no price is known."""
        if not any(release.price is not None for release in self.releases):
            return None
        return imbalance_tariff()

    def setting(self, start: datetime, end: datetime, step: timedelta, start_soe_kwh: float) -> Setting:
        """A span of it, in steps, from a stored energy on."""
        return Setting(
            load=self.load,
            solar=self.solar,
            releases=self.releases,
            start=start,
            end=end,
            step=step,
            start_soe_kwh=start_soe_kwh,
            told=self.told,
            day_ahead=self.day_ahead,
        )


class PriceUnit(StrEnum):
    """What the ``price`` column of a file is in."""

    POUNDS_PER_MWH = "£/MWh"
    PENCE_PER_KWH = "p/kWh"

    @property
    def in_pounds_per_mwh(self) -> float:
        return 10.0 if self is PriceUnit.PENCE_PER_KWH else 1.0


def load_profile(source: str, scale: float, zone: ZoneInfo) -> Profile:
    """The load: a CSV file of energies (the rows of another year by month, day and clock time), or a mean in kW."""

    def synthetic(mean_kw: float) -> Profile:
        return SyntheticLoad(mean_kw=mean_kw, timezone=zone)

    return _profile(source, "--load", scale, zone, synthetic)


def solar_profile(source: str, scale: float, zone: ZoneInfo) -> Profile:
    """The sun: a CSV file like the load's, or the peak of a synthetic plant in kW."""

    def synthetic(peak_kw: float) -> Profile:
        return SyntheticSolar(peak_kw=peak_kw) if peak_kw else Constant(0.0)

    return _profile(source, "--solar", scale, zone, synthetic)


def _profile(source: str, option: str, scale: float, zone: ZoneInfo, synthetic: Callable[[float], Profile]) -> Profile:
    if source.lower().endswith(".csv"):
        return load_csv_profile(Path(source), scale, zone)
    try:
        power_kw = float(source) * scale
    except ValueError:
        raise InputError(f"{option} {source}: a power in kW, or a .csv file of energies") from None
    if not (math.isfinite(power_kw) and power_kw >= 0):
        raise InputError(f"{option} {source}: a power must be 0 kW or more")
    return synthetic(power_kw)


def read_market(
    paths: Sequence[Path], unit: PriceUnit, delay: timedelta
) -> tuple[tuple[Release, ...], dict[datetime, float]]:
    """The figures of market files, one after the other: as they came out, and day-ahead prices by half hour.

    A file has a first column of times (starts of half hours; one without an offset is UTC) and any of ``price``,
    ``day_ahead`` (both in ``unit``), ``niv_mw`` and ``volume`` (MWh per half hour), both + short. A column ``known_at``
    says when a row came out; without one that is ``delay`` after the half hour's start. An empty cell is missing.
    """
    releases: list[Release] = []
    day_ahead: dict[datetime, float] = {}
    for path in paths:
        header, rows = table_of(path)
        if not header or not header[0].lower().endswith("time") or not set(header) & set(_COLUMNS):
            raise InputError(f"{path}:1: needs a first column of times, like time, and one of {', '.join(_COLUMNS)}")
        places = {name: header.index(name) for name in (*_COLUMNS, "known_at") if name in header}
        for number, row in rows:
            try:
                release, ahead = _release(row, places, unit, delay)
            except ValueError as error:
                raise InputError(f"{path}:{number}: {error}") from None
            releases.append(release)
            if ahead is not None:
                day_ahead[release.sp_start] = ahead
    return tuple(releases), day_ahead


def _release(
    row: Sequence[str], places: dict[str, int], unit: PriceUnit, delay: timedelta
) -> tuple[Release, float | None]:
    start = instant_in(row[0])
    if start != period_start(start):
        raise ValueError(f"{row[0]} is no start of a half hour")
    price, niv_mw, volume, ahead = (number_in(row[places[name]]) if name in places else None for name in _COLUMNS)
    known_at = row[places["known_at"]].strip() if "known_at" in places else ""
    release = Release(
        known_at=instant_in(known_at) if known_at else start + delay,
        sp_start=start,
        price=None if price is None else price * unit.in_pounds_per_mwh,
        niv_mw=niv_mw if volume is None else volume / _HOURS_PER_PERIOD,
    )
    return release, None if ahead is None else ahead * unit.in_pounds_per_mwh
