"""``flux control schedule`` and ``flux control envelope``: what a site's controller is told from outside, by hand."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flux.cli.platform import body, platform
from flux.cli.shared import print_table
from flux.errors import InputError

if TYPE_CHECKING:
    from datetime import datetime
    from zoneinfo import ZoneInfo

    from flux.cli.platform import Platform

schedule_app = typer.Typer(no_args_is_help=True, help="External dispatch of a site: what mode `axle` is asked to do.")
envelope_app = typer.Typer(no_args_is_help=True, help="Operating envelopes: grid limits that hold for a while.")

SiteCode = Annotated[str, typer.Option("--site", help="The site's code, like WLCE.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, for programs; times are UTC.")]
_TIME_HELP = "17:00 (today, in the site's time), 2026-01-15T17:00 (the site's time), or 2026-01-15T17:00Z"
From = Annotated[str | None, typer.Option("--from", help=f"{_TIME_HELP}; default: now.")]
Until = Annotated[str, typer.Option("--until", help=f"Not included. {_TIME_HELP}.")]
_ACTIONS = ("charge_max", "discharge_max", "avoid_import", "avoid_export")


@schedule_app.command("add")
def add_step(
    action: Annotated[str, typer.Argument(help=", ".join(_ACTIONS))], site: SiteCode, until: Until, start: From = None
) -> None:
    """Add a step by hand; it counts before those of a market platform, and before earlier ones by hand.

    The site's plan must have the mode `axle`. The edge takes it up within a second.

    Example: `flux control schedule add discharge_max --site WLCE --from 17:00 --until 17:30`
    """
    from flux.api.typed import control

    if action not in _ACTIONS:
        raise InputError(f"{action!r}: must be one of {', '.join(_ACTIONS)}")
    with platform() as there:
        zone, (begin, end) = _span(there, site, start, until)
        there.call(control.add_step, site=site, body=body(control.Step, action=action, start=begin, end=end))
    typer.echo(f"{site}: {action} from {_local(begin, zone)} until {_local(end, zone)}")


@schedule_app.command("show")
def show_schedule(site: SiteCode, as_json: AsJson = False) -> None:
    """List the steps that have not ended; of those that hold at once the first counts.

    Example: `flux control schedule show --site WLCE`
    """
    from flux.api.typed import control

    with platform() as there:
        zone, steps = _zone(there, site), there.call(control.show_schedule, site=site)
    rows = [
        {"from": _shown(one.step.start, zone, as_json), "until": _shown(one.step.end, zone, as_json)}
        | {"action": one.step.action, "source": one.source, "received": _shown(one.received_at, zone, as_json)}
        for one in steps
    ]
    _print(rows, as_json, f"{site}: nothing is scheduled")


@schedule_app.command("clear")
def clear_schedule(
    site: SiteCode,
    source: Annotated[str, typer.Option(help="Whose steps: `manual`, `axle`, …")] = "manual",
) -> None:
    """Withdraw every step of a source that has not ended. A market platform may send its own again.

    Example: `flux control schedule clear --site WLCE`
    """
    from flux.api.typed import control

    with platform() as there:
        count = there.call(control.clear_schedule, site=site, source=source).count
    typer.echo(f"{site}: {_count(count, f'step of {source}', f'steps of {source}')} withdrawn")


@envelope_app.command("add")
def add_envelope(
    site: SiteCode,
    until: Until,
    start: From = None,
    import_kw: Annotated[float | None, typer.Option("--import", help="Import limit, kW; default: the plan's.")] = None,
    export_kw: Annotated[float | None, typer.Option("--export", help="Export limit, kW; default: the plan's.")] = None,
) -> None:
    """Add an operating envelope: while it lasts its limits take the place of the plan's, and of earlier envelopes.

    Example: `flux control envelope add --site WLCE --export 100 --from 11:00 --until 15:00`
    """
    from flux.api.typed import control

    with platform() as there:
        zone, (begin, end) = _span(there, site, start, until)
        new = body(control.NewEnvelope, start=begin, end=end, import_kw=import_kw, export_kw=export_kw)
        there.call(control.add_envelope, site=site, body=new)
    limits = ", ".join(f"{n} {v:g} kW" for n, v in (("import", import_kw), ("export", export_kw)) if v is not None)
    typer.echo(f"{site}: {limits} from {_local(begin, zone)} until {_local(end, zone)}")


@envelope_app.command("show")
def show_envelopes(site: SiteCode, as_json: AsJson = False) -> None:
    """List the envelopes that have not ended; of those that hold at once the first that gives a limit counts.

    Example: `flux control envelope show --site WLCE`
    """
    from flux.api.typed import control

    with platform() as there:
        zone, envelopes = _zone(there, site), there.call(control.show_envelopes, site=site)
    held = [(one.envelope, one) for one in envelopes]
    rows = [
        {"from": _shown(envelope.start, zone, as_json), "until": _shown(envelope.end, zone, as_json)}
        | {"import_limit_kw": envelope.limits.import_kw, "export_limit_kw": envelope.limits.export_kw}
        | {"source": one.source, "received": _shown(one.received_at, zone, as_json)}
        for envelope, one in held
    ]
    _print(rows, as_json, f"{site}: no envelope; the plan's limits hold")


@envelope_app.command("clear")
def clear_envelopes(site: SiteCode) -> None:
    """Withdraw every envelope of a site that has not ended.

    Example: `flux control envelope clear --site WLCE`
    """
    from flux.api.typed import control

    with platform() as there:
        count = there.call(control.clear_envelopes, site=site).count
    typer.echo(f"{site}: {_count(count, 'envelope', 'envelopes')} withdrawn")


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _zone(there: "Platform", site: str) -> "ZoneInfo":
    from zoneinfo import ZoneInfo

    from flux.api.typed import control

    return ZoneInfo(there.call(control.control_state, site=site).timezone)


def _span(there: "Platform", site: str, start: str | None, until: str) -> "tuple[ZoneInfo, tuple[datetime, datetime]]":
    from datetime import UTC, datetime

    zone = _zone(there, site)
    now = datetime.now(UTC).replace(microsecond=0)
    begin = now if start is None else instant(start, zone, now, "--from")
    end = instant(until, zone, begin, "--until")
    if end <= now:
        raise InputError(f"--until {until}: {_local(end, zone)} is over")
    return zone, (begin, end)


def instant(text: str, zone: "ZoneInfo", after: "datetime", option: str) -> "datetime":
    """A time as people type it; ``17:00`` is on the local day of ``after``, an end not after it on the next."""
    from datetime import UTC, datetime, time, timedelta

    from flux.control.periods import instant_of

    try:
        if ":" in text and "-" not in text:
            clock = time.fromisoformat(text)
            stamp = datetime.combine(after.astimezone(zone).date(), clock)
        else:
            stamp = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{option} {text!r}: write it like 17:00, 2026-01-15T17:00 or 2026-01-15T17:00Z") from None
    if stamp.tzinfo is not None:
        return stamp.astimezone(UTC)
    seconds = stamp.hour * 3600 + stamp.minute * 60 + stamp.second
    found = instant_of(stamp.date(), seconds, zone)
    if "-" not in text and option == "--until" and found <= after:
        found = instant_of(stamp.date() + timedelta(days=1), seconds, zone)
    return found


def _local(at: "datetime", zone: "ZoneInfo") -> str:
    return f"{at.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}"


def _shown(at: "datetime", zone: "ZoneInfo", as_json: bool) -> str:
    return at.isoformat() if as_json else _local(at, zone)


def _print(rows: list[dict[str, Any]], as_json: bool, none: str) -> None:
    import json

    if as_json:
        typer.echo(json.dumps(rows))
    elif rows:
        print_table(rows)
    else:
        typer.echo(none)
