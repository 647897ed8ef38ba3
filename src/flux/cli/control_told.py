"""``flux control schedule`` and ``flux control envelope``: what a site's controller is told from outside, by hand."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flux.cli.shared import print_table, run_on_database
from flux.errors import InputError

if TYPE_CHECKING:
    from datetime import datetime
    from zoneinfo import ZoneInfo

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
    from flux.control.state import ScheduleStep
    from flux.store.dispatch import MANUAL, replace_schedule, schedule_of

    if action not in _ACTIONS:
        raise InputError(f"{action!r}: must be one of {', '.join(_ACTIONS)}")

    async def work(conn: Any) -> str:
        zone, (begin, end) = await _span(conn, site, start, until)
        by_hand = [stored.step for stored in await schedule_of(conn, site) if stored.source == MANUAL]
        await replace_schedule(conn, site, [ScheduleStep(begin, end, action), *by_hand], source=MANUAL)
        return f"{site}: {action} from {_local(begin, zone)} until {_local(end, zone)}"

    typer.echo(run_on_database(work))


@schedule_app.command("show")
def show_schedule(site: SiteCode, as_json: AsJson = False) -> None:
    """List the steps that have not ended; of those that hold at once the first counts.

    Example: `flux control schedule show --site WLCE`
    """
    from flux.store.dispatch import schedule_of

    async def work(conn: Any) -> list[dict[str, Any]]:
        zone = await _zone(conn, site)
        rows = [(one.step.start, one.step.end, one.received_at, one) for one in await schedule_of(conn, site)]
        return [
            {"from": _shown(start, zone, as_json), "until": _shown(end, zone, as_json), "action": one.step.action}
            | {"source": one.source, "received": _shown(at, zone, as_json)}
            for start, end, at, one in rows
        ]

    _print(run_on_database(work), as_json, f"{site}: nothing is scheduled")


@schedule_app.command("clear")
def clear_schedule(
    site: SiteCode,
    source: Annotated[str, typer.Option(help="Whose steps: `manual`, `axle`, …")] = "manual",
) -> None:
    """Withdraw every step of a source that has not ended. A market platform may send its own again.

    Example: `flux control schedule clear --site WLCE`
    """
    from flux.store.dispatch import replace_schedule

    replaced = run_on_database(lambda conn: replace_schedule(conn, site, [], source=source))
    typer.echo(f"{site}: {_count(replaced.withdrawn, f'step of {source}', f'steps of {source}')} withdrawn")


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
    from flux.control.state import Envelope, SiteLimits
    from flux.store import dispatch

    async def work(conn: Any) -> str:
        zone, (begin, end) = await _span(conn, site, start, until)
        await dispatch.add_envelope(conn, site, Envelope(begin, end, SiteLimits(import_kw, export_kw)))
        limits = ", ".join(f"{n} {v:g} kW" for n, v in (("import", import_kw), ("export", export_kw)) if v is not None)
        return f"{site}: {limits} from {_local(begin, zone)} until {_local(end, zone)}"

    typer.echo(run_on_database(work))


@envelope_app.command("show")
def show_envelopes(site: SiteCode, as_json: AsJson = False) -> None:
    """List the envelopes that have not ended; of those that hold at once the first that gives a limit counts.

    Example: `flux control envelope show --site WLCE`
    """
    from flux.store.dispatch import envelopes_of

    async def work(conn: Any) -> list[dict[str, Any]]:
        zone = await _zone(conn, site)
        rows = [
            (one.envelope.start, one.envelope.end, one.envelope.limits, one) for one in await envelopes_of(conn, site)
        ]
        return [
            {"from": _shown(start, zone, as_json), "until": _shown(end, zone, as_json)}
            | {"import_limit_kw": limits.import_kw, "export_limit_kw": limits.export_kw}
            | {"source": one.source, "received": _shown(one.received_at, zone, as_json)}
            for start, end, limits, one in rows
        ]

    _print(run_on_database(work), as_json, f"{site}: no envelope; the plan's limits hold")


@envelope_app.command("clear")
def clear_envelopes(site: SiteCode) -> None:
    """Withdraw every envelope of a site that has not ended.

    Example: `flux control envelope clear --site WLCE`
    """
    from flux.store import dispatch

    count = run_on_database(lambda conn: dispatch.clear_envelopes(conn, site))
    typer.echo(f"{site}: {_count(count, 'envelope', 'envelopes')} withdrawn")


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


async def _zone(conn: Any, site: str) -> "ZoneInfo":
    from zoneinfo import ZoneInfo

    from flux.store.decisions import zone_of_site
    from flux.store.dispatch import check_site

    await check_site(conn, site)
    return ZoneInfo(await zone_of_site(conn, site))


async def _span(conn: Any, site: str, start: str | None, until: str) -> "tuple[ZoneInfo, tuple[datetime, datetime]]":
    from datetime import UTC, datetime

    zone = await _zone(conn, site)
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
