"""``flux control faults``: what went wrong under control, from when to when, as the ledger has it."""

from typing import TYPE_CHECKING, Annotated

import typer

from flux.cli.control_ledger import AsJson, Since, SiteCode, Until

if TYPE_CHECKING:
    from datetime import datetime
    from zoneinfo import ZoneInfo

    from flux.control.faults import FaultSpan


def faults(
    site: SiteCode,
    since: Since = "24h",
    until: Until = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind, like not_following.")] = None,
    device: Annotated[str | None, typer.Option(help="Only of this device.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the faults of a site's live control, oldest first: kind, device, from when to when, and in words.

    Kinds: not_acknowledged, read_back, restarted, not_following, other_master, offline, hunting, stale, no_lease.
    One that still held at the last decision of the span has no end.

    Example: `flux control faults --site WLCE --since 7d`
    """
    from flux.api.typed import ledger
    from flux.cli.control_ledger import _bounds
    from flux.cli.platform import platform

    first, end = _bounds(since, until)
    with platform() as there:
        answer = there.call(ledger.list_faults, site=site, start=first, end=end)
    zone, found = answer.timezone, answer.faults
    wanted = [one for one in found if kind in (None, one.kind) and device in (None, one.device)]
    if as_json:
        _print_json(wanted)
    else:
        _print_table(wanted, zone)


def _print_json(spans: "list[FaultSpan]") -> None:
    import json
    from dataclasses import asdict

    rows = [json.dumps(asdict(span), default=lambda value: value.isoformat()) for span in spans]
    typer.echo("[" + ",\n ".join(rows) + "]")


def _print_table(spans: "list[FaultSpan]", zone_name: str) -> None:
    from zoneinfo import ZoneInfo

    from flux.cli.shared import print_table

    if not spans:
        typer.echo("no faults in that span")
        return
    zone = ZoneInfo(zone_name)
    print_table(
        [
            {
                "since": _local(span.since, zone),
                "until": "still there" if span.until is None else _local(span.until, zone),
                "kind": span.kind,
                "device": span.device,
                "what": span.words,
            }
            for span in spans
        ]
    )


def _local(instant: "datetime", zone: "ZoneInfo") -> str:
    return f"{instant.astimezone(zone):%Y-%m-%d %H:%M:%S}"
