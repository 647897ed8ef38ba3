"""``flux control log``, ``why``, ``compare`` and ``plan``: what was decided, and why."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flux.errors import InputError

if TYPE_CHECKING:
    from datetime import datetime
    from zoneinfo import ZoneInfo

    from flux.cli.platform import Platform
    from flux.control.summary import PlanSummary

_MOST_ROWS = 1_000_000
SiteCode = Annotated[str, typer.Option("--site", help="The site's code, like WLCE.")]
Since = Annotated[str, typer.Option(help="From then on: 90s, 2h, 7d ago, or a time like 2026-01-15T12:00Z.")]
Until = Annotated[str | None, typer.Option(help="Until then, not included; written like --since; default: now.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, for programs; times are UTC.")]
PlanName = Annotated[
    str, typer.Option("--plan", help="`live`, the name of a shadow plan, or `all`.", show_default=True)
]


def log(
    site: SiteCode,
    since: Since = "2h",
    until: Until = None,
    plan: PlanName = "live",
    last: Annotated[int | None, typer.Option(min=1, help="Only the newest so many.")] = None,
    changes: Annotated[bool, typer.Option("--changes", help="Only changes of mode, limit, fault, plan.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what a site's controller decided, oldest first, in the site's local time; + discharge, − charge.

    A decision is kept when its power, mode, limits or staleness change, and once a minute.

    Example: `flux control log --site WLCE --since 6h --changes`
    """
    from flux.cli.platform import platform

    first, end = _bounds(since, until)
    with platform() as there:
        zone, shown = decisions_of(there, site, first, end, plan=plan, changes=changes, last=last)
    if as_json:
        _print_json(shown)
    else:
        _print_log(shown, zone, show_plan=plan == "all")


def why(
    device: Annotated[str, typer.Argument(help="Name or id of a battery.")],
    at: Annotated[
        str | None,
        typer.Option(help="17:05 (the last one, in the plan's local time), or 2026-01-15T17:05; default: now."),
    ] = None,
    plan: Annotated[str, typer.Option("--plan", help="`live`, or the name of a shadow plan.")] = "live",
    as_json: AsJson = False,
) -> None:
    """Explain what a battery did at a time: what was known and how old, what each mode proposed, what came of it.

    The proposals are found by deciding once more on the kept inputs, by the kept plan; it says so if that differs.

    Example: `flux control why WLCE-BESS-01 --at 17:05`
    """
    from zoneinfo import ZoneInfo

    from flux.api.typed import ledger
    from flux.cli.platform import platform

    with platform() as there:
        zone = there.call(ledger.zone_of_battery, name=device)
        instant = _instant_of(at, ZoneInfo(zone))
        found = there.call(ledger.why_decided, name=device, at=instant, plan=plan)
    if as_json:
        _print_json([found.decision], alone=True)
    else:
        for line in found.lines:
            typer.echo(line)


def compare(site: SiteCode, since: Since = "24h", until: Until = None, as_json: AsJson = False) -> None:
    """Compare the plans of a site, live and shadow, over a span: energies, modes, time at limits.

    A shadow plan decides on the states that the live one made, so its figures are not what would have come of it.

    Example: `flux control compare --site WLCE --since 7d`
    """
    from flux.api.typed import ledger
    from flux.cli.platform import platform

    first, end = _bounds(since, until)
    with platform() as there:
        found = there.call(ledger.compare_plans, site=site, start=first, end=end)
    summaries = [_figures(summary) for summary in found]
    if as_json:
        _print_json(summaries)
    elif not summaries:
        typer.echo("no decisions in that span")
    else:
        from flux.cli.shared import print_table

        print_table([{**row, "hours_by_mode": _words(row["hours_by_mode"], "h")} | _energies(row) for row in summaries])


def plan(hash: Annotated[str, typer.Argument(help="The plan's hash, or the start of it, as in the log.")]) -> None:
    """Print a plan that decisions were made by, as JSON; `flux control check` and `replay` take it as a file.

    Example: `flux control plan 5da279fb > plan.yaml`
    """
    import json

    from flux.api.typed import ledger
    from flux.cli.platform import platform

    with platform() as there:
        found = there.call(ledger.show_plan, hash=hash)
    typer.echo(json.dumps(found.body, indent=2))


def rejected(
    retry: Annotated[bool, typer.Option("--retry", help="Try to store them again.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="List at most so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the decisions that the database refused, whole, and why; try them again.

    Example: `flux control rejected --retry`, after the battery that they are of was registered again
    """
    from dataclasses import asdict

    from flux.cli.shared import print_table
    from flux.store.rejected_decisions import list_rejected_decisions, retry_rejected_decisions

    if retry:
        result = _on_database(retry_rejected_decisions)
        typer.echo(f"stored {result.stored}, stored before {result.duplicates}, still refused {result.rejected}")
        return
    rows = [asdict(row) for row in _on_database(lambda conn: list_rejected_decisions(conn, limit=limit))]
    if as_json:
        _print_json([row | {"device_id": str(row["device_id"])} for row in rows])
    elif rows:
        named = ({"device": row["device_name"] or str(row["device_id"]), "plan": row["plan"] or "live"} for row in rows)
        shown = [row | names for row, names in zip(rows, named, strict=True)]
        print_table(shown, ["id", "received_at", "device", "plan", "time", "reason", "detail"])
    else:
        typer.echo("no decision was refused")


def _on_database(work: Any) -> Any:
    from flux.cli.shared import run_on_database

    return run_on_database(work)


def decisions_of(
    there: "Platform",
    site: str,
    start: "datetime",
    end: "datetime",
    *,
    plan: str,
    changes: bool,
    last: int | None,
) -> tuple[str, list[dict[str, Any]]]:
    """The site's time zone and its decisions of [start, end), oldest first; in pages where it gives no more at once."""
    from flux.api.typed import ledger

    if there.page_rows is None or changes:
        limit = _MOST_ROWS if there.page_rows is None else there.page_rows
        answer = there.call(
            ledger.list_decisions, site=site, start=start, end=end, plan=plan, changes=changes, limit=last or limit
        )
        return answer.timezone, answer.decisions
    rows: list[dict[str, Any]] = []
    while True:
        size = min(there.page_rows, (last or _MOST_ROWS) - len(rows))
        answer = there.call(ledger.list_decisions, site=site, start=start, end=end, plan=plan, limit=size)
        rows = answer.decisions + rows
        if len(answer.decisions) < size or len(rows) >= (last or _MOST_ROWS):
            return answer.timezone, rows
        end = answer.decisions[0]["time"]


def _bounds(since: str, until: str | None) -> "tuple[datetime, datetime]":
    from datetime import UTC, datetime

    from flux.cli.readings import _instant

    now = datetime.now(UTC)
    end = now if until is None else _instant(until, now, "--until")
    return _instant(since, now, "--since"), end


def _instant_of(text: str | None, zone: "ZoneInfo") -> "datetime":
    """``17:05`` → its last coming, today or yesterday; a time without an offset is local."""
    from datetime import UTC, datetime, time, timedelta

    from flux.control.periods import instant_of

    now = datetime.now(UTC)
    if text is None:
        return now
    wrong = InputError(f"--at {text!r}: write it like 17:05, 2026-01-15T17:05 or 2026-01-15T17:05Z")
    try:
        clock = time.fromisoformat(text) if "-" not in text else None
        stamp = datetime.fromisoformat(text) if clock is None else None
    except ValueError:
        raise wrong from None
    if stamp is not None and stamp.tzinfo is not None:
        return stamp.astimezone(UTC)
    if clock is not None and clock.tzinfo is not None:
        raise wrong
    wanted = clock if stamp is None else stamp.time()
    assert wanted is not None  # noqa: S101 - one of the two was read
    seconds = wanted.hour * 3600 + wanted.minute * 60 + wanted.second
    if stamp is not None:
        return instant_of(stamp.date(), seconds, zone)
    today = now.astimezone(zone).date()
    instant = instant_of(today, seconds, zone)
    return instant if instant <= now else instant_of(today - timedelta(days=1), seconds, zone)


def _print_json(rows: "list[Any]", *, alone: bool = False) -> None:
    import json

    texts = [json.dumps(row, default=lambda value: value.isoformat()) for row in rows]
    typer.echo(texts[0] if alone else "[" + ",\n ".join(texts) + "]")


def _print_log(rows: "list[Any]", zone_name: str, *, show_plan: bool) -> None:
    from zoneinfo import ZoneInfo

    zone = ZoneInfo(zone_name)
    if not rows:
        typer.echo("no decisions in that span")
    for row in rows:
        power = row["target_power_kw"]
        target = f"{'no command':>13}" if power is None else f"{power:+10.1f} kW"
        name = f"{row['plan'] or 'live':<12} " if show_plan else ""
        typer.echo(f"{row['time'].astimezone(zone):%Y-%m-%d %H:%M:%S %Z} {name}{target}  {row['reason']}")
        for fault in row["faults"]:
            typer.echo(f"{'':>24}fault: {fault}")


def _figures(summary: "PlanSummary") -> dict[str, Any]:
    def rounded(figures: dict[str, float]) -> dict[str, float]:
        return {name: round(value, 3) for name, value in sorted(figures.items())}

    return {
        "plan": summary.plan or "live",
        "decisions": summary.decisions,
        "hours": round(summary.hours, 3),
        "mean_power_kw": round(summary.mean_power_kw, 3),
        "charged_kwh": round(summary.charged_kwh, 2),
        "discharged_kwh": round(summary.discharged_kwh, 2),
        "hours_at_limits": round(summary.hours_at_limits, 3),
        "hours_stale": round(summary.hours_stale, 3),
        "energy_by_mode_kwh": rounded(summary.energy_by_mode),
        "hours_by_mode": rounded(summary.hours_by_mode),
    }


def _energies(row: dict[str, Any]) -> dict[str, str]:
    return {"energy_by_mode_kwh": _words(row["energy_by_mode_kwh"], "kWh")}


def _words(figures: dict[str, float], unit: str) -> str:
    return ", ".join(f"{name} {value:.1f} {unit}" for name, value in figures.items())
