"""``flux counters``: what counters did that they should not do, and what people say of it."""

from typing import Annotated, Any

import typer

from flux.cli.platform import body, platform
from flux.cli.shared import print_table
from flux.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    help="Counters that fell, or rose by more than the device can carry: what Flux took it for, and your say in it.",
)

Device = Annotated[str, typer.Argument(help="Name or id of the meter.")]
Counter = Annotated[str, typer.Argument(help="The counter, e.g. energy_imported_active.")]
Time = Annotated[str, typer.Argument(help="When, UTC, as `list` shows it: 2026-01-15T12:02:00.")]
Reason = Annotated[str | None, typer.Option(help="Why; kept with your name.")]


@app.command("list")
def list_(
    site: Annotated[str | None, typer.Option(help="Only this site.")] = None,
    device: Annotated[str | None, typer.Option(help="Only this meter.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what needs nobody's look.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array, every column.")] = False,
) -> None:
    """List events that somebody should look at, newest first. `step` is what counts of them, kWh (kVArh, kVAh).

    Example: `flux counters list --site WLCE --all`
    """
    from dataclasses import asdict

    from flux.api.typed import quality

    with platform() as there:
        events = there.call(quality.list_counter_events, site=site, device=device, everything=everything, limit=limit)
    rows = [asdict(event) for event in events]
    if as_json:
        print_json(rows)
    elif rows:
        columns = ["device", "counter", "time", "kind", "good_value", "value", "step", "ruling", "decided_by", "reason"]
        print_table(rows, [c for c in columns if any(row[c] is not None for row in rows)])
    else:
        typer.echo("no counter did anything odd" if everything else "nothing to review; --all shows the rest")


@app.command()
def accept(device: Device, counter: Counter, time: Time, reason: Reason = None) -> None:
    """Say that Flux took an event for what it was; it needs no more review.

    Example: `flux counters accept WLCE-GRID energy_imported_active 2026-01-15T12:02 --reason "meter replaced"`
    """
    _rule(device, counter, time, "as_judged", None, reason)


@app.command()
def reject(
    device: Device,
    counter: Counter,
    time: Time,
    was: Annotated[
        str | None,
        typer.Option("--as", help="What it was: restart, rollover or correction; of a jump: rise (all of it counts)."),
    ] = None,
    step: Annotated[float | None, typer.Option(min=0, help="How much to count instead, in the counter's unit.")] = None,
    reason: Reason = None,
) -> None:
    """Say what an event was instead, or how much to count; the rollups follow with the next refresh.

    Example: `flux counters reject WLCE-GRID energy_imported_active 2026-01-15T12:02 --step 7.25 --reason "old reading"`
    """
    kinds = ("restart", "rollover", "correction", "rise")
    if (was is None) == (step is None):
        raise InputError(f"say what it was, --as {'|'.join(kinds)}, or how much to count, --step")
    if was is not None and was not in kinds:
        raise InputError(f"--as {was!r}: one of {', '.join(kinds)}")
    _rule(device, counter, time, was or "step", step, reason)


@app.command()
def withdraw(device: Device, counter: Counter, time: Time, reason: Reason = None) -> None:
    """Take back what was said of an event: Flux judges it again.

    Example: `flux counters withdraw WLCE-GRID energy_imported_active 2026-01-15T12:02`
    """
    from flux.api.typed import quality

    taken_back = body(quality.Withdrawal, time=time_of(time), reason=reason)
    with platform() as there:
        at = there.call(quality.withdraw_ruling, name=device, counter=counter, body=taken_back).time
    typer.echo(f"{device} {counter} {at:%Y-%m-%d %H:%M:%S}: withdrawn")


def _rule(device: str, counter: str, time: str, kind: str, step: float | None, reason: str | None) -> None:
    from flux.api.typed import quality
    from flux.store.counters import Ruling

    ruling = body(quality.NewRuling, time=time_of(time), ruling=Ruling(kind), step=step, reason=reason)
    with platform() as there:
        done = there.call(quality.rule_on_counter, name=device, counter=counter, body=ruling).time
    what = f"{step:,.2f} counted" if step is not None else kind.replace("_", " ")
    typer.echo(f"{device} {counter} {done:%Y-%m-%d %H:%M:%S}: {what}; the rollups follow with the next refresh")


def time_of(text: str) -> Any:
    from datetime import UTC, datetime

    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"time {text!r}: write it like 2026-01-15T12:02:00") from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def print_json(rows: list[dict[str, Any]]) -> None:
    import json
    from datetime import datetime

    def plain(value: Any) -> str:
        return value.isoformat() if isinstance(value, datetime) else str(value)

    typer.echo("[" + ",\n ".join(json.dumps(row, default=plain) for row in rows) + "]")
