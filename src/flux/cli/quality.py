"""``flux quality``: values that are stored and left out of the rollups."""

from typing import Annotated

import typer

from flux.cli.counters import print_json, time_of
from flux.cli.platform import body, platform
from flux.cli.shared import print_table

app = typer.Typer(no_args_is_help=True, help="Values that cannot be true: stored, marked, and left out of the rollups.")

Device = Annotated[str, typer.Argument(help="Name or id of the meter.")]
Metric = Annotated[str, typer.Argument(help="The metric, e.g. power_total_active.")]
Time = Annotated[str, typer.Argument(help="When, UTC, as `list` shows it: 2026-01-15T12:02:00.")]
Until = Annotated[str | None, typer.Option(help="Everything from TIME until then, not included.")]
Reason = Annotated[str | None, typer.Option(help="Why; kept with your name.")]


@app.command("list")
def list_(
    site: Annotated[str | None, typer.Option(help="Only this site.")] = None,
    device: Annotated[str | None, typer.Option(help="Only this meter.")] = None,
    metric: Annotated[str | None, typer.Option(help="Only this metric.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also marks that were lifted.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array, every column.")] = False,
) -> None:
    """List marked values, newest first, and why: range, spike, stuck, or a person.

    Example: `flux quality list --site WLCE --metric power_total_active`
    """
    from dataclasses import asdict

    from flux.api.typed import quality

    with platform() as there:
        marks = there.call(
            quality.list_marks, site=site, device=device, metric=metric, everything=everything, limit=limit
        )
    rows = [asdict(one) for one in marks]
    if as_json:
        print_json(rows)
    elif rows:
        columns = ["device", "time", "metric", "value", "reason", "marked_by", "note", "lifted_by", "lift_note"]
        print_table(rows, [c for c in columns if any(row[c] is not None for row in rows)])
    else:
        typer.echo("no value is marked")


@app.command()
def lift(device: Device, metric: Metric, time: Time, until: Until = None, reason: Reason = None) -> None:
    """Take a marked value back into the rollups; it is not marked again unless it changes.

    Example: `flux quality lift WLCE-GRID power_total_active 2026-01-15T12:02 --reason "that was the fault test"`
    """
    _change("lift", device, metric, time, until, reason)


@app.command()
def mark(device: Device, metric: Metric, time: Time, until: Until = None, reason: Reason = None) -> None:
    """Leave a value out of the rollups, or all values of a span.

    Example: `flux quality mark WLCE-GRID power_total_active 2026-01-15T12:00 --until 2026-01-15T14:00`
    """
    _change("mark", device, metric, time, until, reason)


def _change(way: str, device: str, metric: str, time: str, until: str | None, reason: str | None) -> None:
    from flux.api.typed import quality

    end = time_of(until) if until else None
    values = body(quality.Marking, metric=metric, time=time_of(time), until=end, reason=reason)
    change = quality.lift_marks if way == "lift" else quality.mark_values
    with platform() as there:
        count = there.call(change, name=device, body=values).count
    done = "taken back into" if way == "lift" else "left out of"
    typer.echo(f"{device} {metric}: {count} value{'s' * (count != 1)} {done} the rollups, with the next refresh")
