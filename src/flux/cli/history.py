"""What ``flux backtest`` and ``flux optimum`` are told alike: files of load, sun and prices, and a span."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flux.errors import InputError

if TYPE_CHECKING:
    from datetime import datetime, timedelta
    from zoneinfo import ZoneInfo

    from flux.analysis.history import History


@dataclass(frozen=True)
class HistoryFiles:
    """The files and figures of the command line."""

    load: str | None
    solar: str | None
    prices: list[Path]
    load_scale: float
    solar_scale: float
    price_unit: str
    known_after: "timedelta"

    def history(self, site: str | None, span: "tuple[datetime, datetime]", zone: "ZoneInfo") -> "History":
        """What the files give, and what the store gives for ``site`` where there is no file."""
        from flux.analysis.history import History, PriceUnit, load_profile, read_releases, solar_profile

        del span
        if self.load is None and site is None:
            raise InputError("--load is missing: a CSV file or a mean in kW; or --site, to take it from the store")
        try:
            unit = PriceUnit(self.price_unit)
        except ValueError:
            raise InputError(f"--price-unit {self.price_unit}: one of {', '.join(PriceUnit)}") from None
        return History(
            load=load_profile(self.load or "0", self.load_scale, zone),
            solar=solar_profile(self.solar or "0", self.solar_scale, zone),
            releases=read_releases(self.prices, unit, self.known_after),
        )


def local_instant(text: str, zone: "ZoneInfo", option: str) -> "datetime":
    """A local day means its midnight; a time without an offset is local too."""
    from datetime import UTC, datetime

    from flux.control.periods import instant_of

    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{option} {text}: write it like 2024-01-01 or 2024-01-01T12:00Z") from None
    if instant.tzinfo is not None:
        return instant.astimezone(UTC)
    return instant_of(instant.date(), instant.hour * 3600 + instant.minute * 60 + instant.second, zone)


def duration(text: str, option: str) -> "timedelta":
    """``10m`` as a length of time."""
    from flux.model import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise InputError(f"{option}: {error}") from None
