"""``flux control picture``: one simulated day of a plan, drawn."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flux.errors import InputError

if TYPE_CHECKING:
    from datetime import date

    from flux.devices.simulator import LoadConfig, SolarConfig


def picture(
    plan: Annotated[Path, typer.Option(help="site.yaml, or a file with its controller section alone.")],
    day: Annotated[str, typer.Option(help="A local day, like 2026-01-15.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The SVG file to write.")],
    load: Annotated[str, typer.Option(help="Mean of a synthetic load in kW, or a CSV file of half-hour energies.")] = (
        "30"
    ),
    solar: Annotated[str, typer.Option(help="Peak of a synthetic solar plant in kW, or a CSV file like --load.")] = "0",
    market: Annotated[Path | None, typer.Option(help="CSV of half hours: time, price (£/MWh), niv_mw.")] = None,
    soe: Annotated[float, typer.Option(min=0, max=100, help="State of energy at midnight, %.")] = 50.0,
) -> None:
    """Draw what a plan would make of a day: SoE, site and battery power, price, and the modes as bands.

    The day is run by the simulator and the controller itself, in fast time; no device and no database needed.

    Example: `flux control picture --plan site.yaml --day 2026-01-15 --load 60 --solar 200 -o day.svg`
    """
    import asyncio

    from flux.config import load_settings
    from flux.config.logs import configure_logging
    from flux.control.plan import load_plan
    from flux.edge.day import load_market, simulate_day
    from flux.edge.picture import draw_day

    configure_logging(load_settings(), quiet=True)
    loaded, local_day = load_plan(plan), _day(day)
    pairs = load_market(market) if market else []
    points = asyncio.run(simulate_day(loaded, local_day, _load(load), _solar(solar), soe_pct=soe, market=pairs))
    title = f"{', '.join(loaded.bess)} on {local_day:%A} {local_day.day} {local_day:%B %Y}, simulated"
    try:
        output.write_text(draw_day(points, loaded.zone, title), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{output}: {error.strerror}") from None
    typer.echo(f"{output}: {len(points):,} decisions of a day")


def _day(text: str) -> "date":
    from datetime import date

    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InputError(f"--day {text}: not a day; write it like 2026-01-15") from None


def _load(text: str) -> "LoadConfig":
    from flux.devices.simulator import LoadConfig

    path = _file(text, "--load")
    return LoadConfig(file=path) if path else LoadConfig(mean_kw=_power(text, "--load"))


def _solar(text: str) -> "SolarConfig":
    from flux.devices.simulator import SolarConfig

    path = _file(text, "--solar")
    return SolarConfig(file=path) if path else SolarConfig(peak_kw=_power(text, "--solar"))


def _file(text: str, option: str) -> Path | None:
    if not text.endswith(".csv"):
        return None
    if not Path(text).is_file():
        raise InputError(f"{option} {text}: no such file")
    return Path(text)


def _power(text: str, option: str) -> float:
    from math import isfinite

    try:
        power_kw = float(text)
    except ValueError:
        power_kw = -1.0
    if not isfinite(power_kw) or power_kw < 0:
        raise InputError(f"{option} {text}: a power in kW, 0 or more, or a .csv file")
    return power_kw
