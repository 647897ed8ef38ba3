"""``flux devices maintenance``: take a device out of service and back, now or as planned."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from flux.cli.platform import body, platform
from flux.cli.shared import print_table
from flux.errors import InputError

app = typer.Typer(no_args_is_help=True, help="Take a device out of service and back, now or as planned.")

DeviceName = Annotated[str, typer.Argument(help="Name or id of the device.")]
Lasts = Annotated[str | None, typer.Option("--for", help="How long, e.g. 2h; later than that it is overdue.")]


@app.command()
def start(
    name: DeviceName,
    reason: Annotated[str, typer.Option(help="Why, for whoever finds it so.")],
    lasts: Lasts = None,
) -> None:
    """Put a device into maintenance. A battery goes to 0 kW first; then it is neither controlled nor polled.

    Example: `flux devices maintenance start WLCE-BESS-01 --reason "Firmware upgrade" --for 2h`
    """
    from flux.api.typed import devices

    duration = _duration(lasts) if lasts else None
    begun = body(devices.MaintenanceStart, reason=reason, lasts=duration)
    with platform() as there:
        device = there.call(devices.start_maintenance, name=name, body=begun)
    until = f", planned for {lasts}" if lasts else ""
    typer.echo(f"{device.name} is in maintenance{until}; it is not controlled and not polled")


@app.command()
def end(name: DeviceName, reason: Annotated[str | None, typer.Option(help="What was done.")] = None) -> None:
    """End a device's maintenance: it is tested, and becomes active when it answers.

    Example: `flux devices maintenance end WLCE-BESS-01`
    """
    from flux.api.typed import devices

    with platform() as there:
        device = there.call(devices.end_maintenance, name=name, body=body(devices.Note, reason=reason))
    typer.echo(f"{device.name} is in {device.state}; it becomes active when it answers a poll")


@app.command()
def plan(
    name: DeviceName,
    lasts: Annotated[str, typer.Option("--for", help="How long, e.g. 2h.")],
    every: Annotated[
        str | None, typer.Option(help='Again and again: "sunday 02:00", "mon,thu 02:00", "daily 02:00".')
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="Once, at this time: 2026-02-01T02:00+00:00; without an offset, local.")
    ] = None,
    timezone: Annotated[str, typer.Option(help="Zone of the times.")] = "Europe/London",
    reason: Annotated[str, typer.Option(help="Why.")] = "planned maintenance",
    ends_itself: Annotated[
        bool, typer.Option("--ends-itself", help="Take it back to testing when the time is over, without anybody.")
    ] = False,
) -> None:
    """Plan maintenance ahead; the platform's worker begins it.

    Somebody has to end it, since somebody may be working at the device; later than planned it is overdue and alerted.
    With --ends-itself it ends when its time is over.

    Example: `flux devices maintenance plan WLCE-BESS-01 --every "sunday 02:00" --for 2h`
    """
    from flux.api.typed import maintenance

    starts_at = _instant(at, timezone) if at else None
    duration = _duration(lasts)
    if starts_at is not None and starts_at + duration <= datetime.now(UTC):
        raise InputError(f"--at {at}: that is over already, nothing would begin it")
    window = body(
        maintenance.PlanWindow,
        device=name,
        lasts=duration,
        starts_at=starts_at,
        every=every,
        timezone=timezone,
        reason=reason,
        ends_itself=ends_itself,
    )
    with platform() as there:
        planned = there.call(maintenance.plan_maintenance, body=window).id
    when = f"every {every} ({timezone})" if every else f"at {starts_at:%Y-%m-%d %H:%M %Z}"
    typer.echo(f"{name}: maintenance is planned {when} for {lasts}; id {planned}")


@app.command("list")
def list_() -> None:
    """List what is planned, and what is overdue."""
    from flux.api.typed import maintenance

    with platform() as there:
        plans = there.call(maintenance.list_maintenance)
    if plans.windows:
        print_table([_row(window) for window in plans.windows])
    else:
        typer.echo("nothing is planned")
    for one in plans.overdue:
        why = f" ({one.reason})" if one.reason else ""
        typer.secho(f"overdue: {one.device}{why} was to be over at {one.planned_end:%Y-%m-%d %H:%M %Z}", fg="yellow")


@app.command()
def cancel(window: Annotated[str, typer.Argument(help="The id that `list` shows.")]) -> None:
    """Cancel planned maintenance; what has begun goes on."""
    from flux.api.typed import maintenance

    with platform() as there:
        there.call(maintenance.cancel_maintenance, window=window)
    typer.echo("cancelled")


def _row(window: Any) -> dict[str, Any]:
    return {
        "device": window.device,
        "when": window.every or f"{window.starts_at:%Y-%m-%d %H:%M %Z}",
        "timezone": window.timezone,
        "for": str(window.duration),
        "ends itself": "yes" if window.ends_itself else "no",
        "reason": window.reason,
        "id": str(window.id),
    }


def _duration(text: str) -> timedelta:
    from flux.model import parse_duration

    try:
        duration = parse_duration(text)
    except ValueError as error:
        raise InputError(f"--for: {error}") from None
    if duration <= timedelta():
        raise InputError(f"--for {text}: longer than nothing")
    return duration


def _instant(text: str, timezone: str) -> datetime:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        instant = datetime.fromisoformat(text)
        return instant if instant.tzinfo else instant.replace(tzinfo=ZoneInfo(timezone))
    except ZoneInfoNotFoundError:
        raise InputError(f"--timezone {timezone}: not known; write it like Europe/London") from None
    except ValueError:
        raise InputError(f"--at {text}: write it like 2026-02-01T02:00+00:00") from None
