"""``flux report``: what is handed to others. Settlement: the half hours of a month, priced."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flux.errors import InputError

if TYPE_CHECKING:
    from datetime import datetime

    from flux.analysis.settlement import Settlement

_COLOURS = {"serious": "red", "doubtful": "yellow"}

app = typer.Typer(no_args_is_help=True, help="Reports: settlement by half hour.")


@app.callback()
def _report() -> None:
    """Only there so that `settlement` stays a command of its own."""


@app.command()
def settlement(
    month: Annotated[str, typer.Option(help="Of the GB local day, like 2024-01.")],
    group: Annotated[str | None, typer.Option(help="Its primary meters are settled, the others compared.")] = None,
    device: Annotated[list[str] | None, typer.Option(help="Name or id of a meter to settle; repeatable.")] = None,
    tariff: Annotated[Path | None, typer.Option(help="A tariff file; default: the imbalance price alone.")] = None,
    as_of: Annotated[
        str | None, typer.Option(help="Prices as known then, like 2024-02-10T12:00Z; default: now.")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="How far check meters may differ, %.")] = 1.0,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write every line here.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Settle a month: import and export of each meter by settlement period, with prices, totals and what weakens them.

    Example: `flux report settlement --group Settlement-Meters --month 2024-01 --tariff tariff.yaml --html january.html`
    """
    import json
    from datetime import UTC, datetime

    from flux.analysis.settlement import month_span, settle
    from flux.analysis.settlement_facts import meters_of, read_facts
    from flux.analysis.settlement_pages import as_mapping, write_csv, write_page
    from flux.analysis.tariff import imbalance_tariff, load_tariff
    from flux.cli.shared import run_on_database

    if (group is None) is (not device):
        raise InputError("name the meters: --group, or --device once or more")
    start, end = month_span(month)
    rates = load_tariff(tariff) if tariff else imbalance_tariff()
    known = _instant(as_of) if as_of else None

    async def work(conn: Any) -> Any:
        roles = await meters_of(conn, group, device or [])
        return await read_facts(
            conn, roles, start, end, markets=sorted(rates.markets), now=datetime.now(UTC), as_of=known
        )

    found = settle(run_on_database(work), start, end, rates, as_of=known, tolerance=tolerance / 100)
    if csv is not None:
        write_csv(csv, found)
    if html is not None:
        write_page(html, found, f"Settlement of {group or ', '.join(device or [])}, {month}")
    if as_json:
        typer.echo(json.dumps(as_mapping(found)))
    else:
        _print(found)
        for path in (csv, html):
            if path is not None:
                typer.echo(f"wrote {path}")


def _instant(text: str) -> "datetime":
    from datetime import UTC, datetime

    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"--as-of {text}: write it like 2024-02-10T12:00Z") from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _print(found: "Settlement") -> None:
    from flux.cli.shared import print_table

    rows: list[dict[str, Any]] = []
    for total in found.totals:
        listed = total.listed_import_kwh + total.listed_export_kwh
        energies = {"energy_import_kWh": total.import_kwh, "energy_export_kWh": total.export_kwh}
        energies["energy_in_listed_gaps_kWh"] = listed
        rows.append(
            {"meter": total.meter.name, "half_hours": total.half_hours, **energies}
            | {"import": _pounds(total.import_gbp), "export": _pounds(total.export_gbp)}
        )
    print_table(rows)
    for total in found.totals:
        for direction, rates in total.by_rate.items():
            parts = ", ".join(f"{name} {_pounds(value)}" for name, value in rates.items())
            if parts:
                typer.echo(f"{total.meter.name} {direction.value}: {parts}")
    for name, charge in found.daily.items():
        typer.echo(f"{name}: {_pounds(charge)}")
    typer.echo(f"total: {_pounds(found.total_gbp)} (+ cost, − income)")
    for notice in found.notices:
        about = f"{notice.meter}: " if notice.meter else ""
        typer.secho(f"{notice.grade.value}: {about}{notice.text}", fg=_COLOURS.get(notice.grade.value))


def _pounds(value: float | None) -> str:
    return "–" if value is None else f"{'−' if value < -0.005 else ''}£{abs(value):,.2f}"
