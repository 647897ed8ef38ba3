"""``flux health``: how devices are doing."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flux.cli.platform import platform
from flux.cli.shared import print_table
from flux.errors import InputError

if TYPE_CHECKING:
    from flux.store.health import DeviceHealth


def health(
    name: Annotated[str | None, typer.Argument(help="One device, by name or id; else all.")] = None,
    site: Annotated[str | None, typer.Option(help="Only this site.")] = None,
    since: Annotated[str, typer.Option(help="How far back, for one device and for --uptime, e.g. 24h.")] = "24h",
    uptime: Annotated[bool, typer.Option("--uptime", help="Hours online, degraded and offline since then.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show how devices are doing: all of them now, one over time, or their uptime.

    Example: `flux health`, `flux health WLCE-BESS-01 --since 24h`, `flux health --uptime --since 30d`
    """
    from datetime import UTC, datetime

    from flux.api.typed import health as operations
    from flux.model import parse_duration

    end = datetime.now(UTC)
    try:
        start = end - parse_duration(since)
    except (ValueError, OverflowError) as error:
        raise InputError(f"--since: {error}") from None

    with platform() as there:
        if uptime:
            spans = there.call(operations.uptime, device=name, site=site, start=start, end=end)
            rows = [_uptime_row(span) for span in spans]
        elif name:
            rows = there.call(operations.device_health, name=name, start=start, end=end)
        else:
            rows = [_overview_row(one) for one in there.call(operations.health_overview, site=site)]
    if as_json:
        import json

        typer.echo(json.dumps(rows, indent=1, default=str))
    elif rows:
        print_table([_readable(row) for row in rows])
    else:
        typer.echo("nothing is recorded" if name else "no devices")


def _overview_row(one: "DeviceHealth") -> dict[str, Any]:
    flapping = bool(one.diagnostics and one.diagnostics.get("flapping"))
    return {
        "device": one.name,
        "site": one.site,
        "state": one.state,
        "health": "flapping" if flapping else one.status,
        "response_ms": one.response_time_ms,
        "errors": one.error_count,
        "last_successful_poll": one.last_successful_poll,
        "recorded": one.timestamp,
    }


def _uptime_row(span: Any) -> dict[str, Any]:
    percent = None if span.uptime is None else round(100 * span.uptime, 3)
    return {
        "device": span.name,
        "site": span.site,
        "uptime_percent": percent,
        "online_h": span.online_h,
        "degraded_h": span.degraded_h,
        "offline_h": span.offline_h,
        "unknown_h": span.unknown_h,
    }


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    """Diagnostics in a line."""
    details = row.get("diagnostics")
    if not isinstance(details, dict):
        return row
    return row | {"diagnostics": ", ".join(f"{key} {value}" for key, value in details.items())}
