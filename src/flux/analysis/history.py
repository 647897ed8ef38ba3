"""Where a backtest's history comes from when it is files: half-hour energies, prices and NIV as CSV."""

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from zoneinfo import ZoneInfo

from flux.analysis.known import Release
from flux.analysis.simulate import Setting
from flux.analysis.tariff import DirectionRates, Market, Tariff, TariffRate
from flux.devices.simulator.profiles import Constant, Profile, SyntheticLoad, SyntheticSolar, load_csv_profile
from flux.errors import InputError
from flux.model import SETTLEMENT_PERIOD, period_start

_HOURS_PER_PERIOD = SETTLEMENT_PERIOD / timedelta(hours=1)
_COLUMNS = ("price", "niv_mw", "volume")


@dataclass(frozen=True, slots=True)
class History:
    """What a site used and made, and what the market said when."""

    load: Profile
    solar: Profile
    releases: tuple[Release, ...] = ()

    @property
    def tariff(self) -> Tariff | None:
        """What is paid where no tariff is given: the imbalance price, both ways; nothing where no price is known."""
        if not any(release.price is not None for release in self.releases):
            return None
        bought = TariffRate(name="imbalance price", market=Market.IMBALANCE)
        sold = TariffRate(name="imbalance price", market=Market.IMBALANCE, factor=-1.0)
        return Tariff(name="imbalance price", rates=DirectionRates(import_=(bought,), export=(sold,)))

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


def read_releases(paths: Sequence[Path], unit: PriceUnit, delay: timedelta) -> tuple[Release, ...]:
    """The figures of market files, one after the other.

    A file has a first column of times (starts of half hours; one without an offset is UTC) and any of ``price`` (in
    ``unit``), ``niv_mw`` and ``volume`` (MWh per half hour); both + short. A column ``known_at`` says when a row came
    out; without one that is ``delay`` after the half hour's start. An empty cell is a missing value.
    """
    return tuple(release for path in paths for release in _releases(path, unit, delay))


def _releases(path: Path, unit: PriceUnit, delay: timedelta) -> Iterator[Release]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise InputError(f"{path}: {reason}") from None
    rows = csv.reader(text.splitlines())
    header = next(rows, [])
    if not header or not header[0].lower().endswith("time") or not set(header) & set(_COLUMNS):
        raise InputError(f"{path}:1: needs a first column of times, like time, and one of {', '.join(_COLUMNS)}")
    places = {name: header.index(name) for name in (*_COLUMNS, "known_at") if name in header}
    for number, row in enumerate(rows, start=2):
        if not row:
            continue
        if len(row) < len(header):
            raise InputError(f"{path}:{number}: has {len(row)} cells, its header {len(header)}")
        try:
            yield _release(row, places, unit, delay)
        except ValueError as error:
            raise InputError(f"{path}:{number}: {error}") from None


def _release(row: list[str], places: dict[str, int], unit: PriceUnit, delay: timedelta) -> Release:
    start = _instant(row[0])
    if start != period_start(start):
        raise ValueError(f"{row[0]} is no start of a half hour")
    price, niv_mw, volume = (_number(row[places[name]]) if name in places else None for name in _COLUMNS)
    known_at = row[places["known_at"]].strip() if "known_at" in places else ""
    return Release(
        known_at=_instant(known_at) if known_at else start + delay,
        sp_start=start,
        price=None if price is None else price * unit.in_pounds_per_mwh,
        niv_mw=niv_mw if volume is None else volume / _HOURS_PER_PERIOD,
    )


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _number(text: str) -> float | None:
    if not text.strip():
        return None
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number")
    return value
