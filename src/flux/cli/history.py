"""What ``flux backtest`` and ``flux optimum`` are told alike: files of load, sun and prices, and a span."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    known_after: "timedelta | None"
    """None: 10 minutes where a file doesn't say, and of the store what it says itself."""
    dispatch: Path | None = None
    envelopes: Path | None = None

    def history(self, site: str | None, span: "tuple[datetime, datetime]", zone: "ZoneInfo") -> "History":
        """What the files give, and what the store gives for ``site`` where there is no file."""
        from flux.analysis.history import History, PriceUnit, load_profile, read_market, solar_profile
        from flux.analysis.known import DEFAULT_DELAY
        from flux.analysis.told import Told
        from flux.analysis.told_files import read_dispatch, read_envelopes

        if self.load is None and site is None:
            raise InputError("--load is missing: a CSV file or a mean in kW; or --site, to take it from the store")
        try:
            unit = PriceUnit(self.price_unit)
        except ValueError:
            raise InputError(f"--price-unit {self.price_unit}: one of {', '.join(PriceUnit)}") from None
        delay = DEFAULT_DELAY if self.known_after is None else self.known_after
        releases, day_ahead = read_market(self.prices, unit, delay)
        given = History(
            load=load_profile(self.load or "0", self.load_scale, zone),
            solar=solar_profile(self.solar or "0", self.solar_scale, zone),
            releases=releases,
            day_ahead=day_ahead,
            told=Told(
                steps=() if self.dispatch is None else read_dispatch(self.dispatch),
                envelopes=() if self.envelopes is None else read_envelopes(self.envelopes),
            ),
        )
        return given if site is None else self._with_stored(given, site, span, zone)

    def _with_stored(
        self, given: "History", site: str, span: "tuple[datetime, datetime]", zone: "ZoneInfo"
    ) -> "History":
        from dataclasses import replace

        from flux.analysis.stored import site_of
        from flux.analysis.stored_market import day_ahead_of, releases_of, told_of
        from flux.cli.shared import run_on_database
        from flux.store.dispatch import check_site

        async def work(conn: Any) -> "History":
            await check_site(conn, site)
            history, missing = given, 0
            if self.load is None or self.solar is None:
                stored = await site_of(
                    conn, site, *span, zone, load_scale=self.load_scale, solar_scale=self.solar_scale
                )
                history = replace(history, load=history.load if self.load is not None else stored.load)
                history = replace(history, solar=history.solar if self.solar is not None else stored.solar)
                missing = stored.missing
            if not self.prices:
                history = replace(history, releases=await releases_of(conn, site, *span, self.known_after))
            if not history.day_ahead:
                history = replace(history, day_ahead=await day_ahead_of(conn, site, *span))
            told = await told_of(conn, site, *span)
            if self.dispatch is not None:
                told = replace(told, steps=given.told.steps)
            if self.envelopes is not None:
                told = replace(told, envelopes=given.told.envelopes)
            words = f"{missing:,} times five minutes are missing of the meters; other days stand in for them"
            return replace(history, told=told, notices=(words,) if missing else ())

        found: History = run_on_database(work)
        return found


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
