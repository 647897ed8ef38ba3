"""``flux devices scan``: find what speaks Modbus, say what it is, register it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flux.cli.platform import body, chosen, platform
from flux.cli.shared import print_table, progress_bar, run_on_database
from flux.errors import InputError, RefusedError

if TYPE_CHECKING:
    from datetime import timedelta

    from flux.devices.discovery import FoundPort, FoundUnit, ScanOptions
    from flux.model import Device
    from flux.registry.discovered import Discovery


def scan(
    ranges: Annotated[list[str], typer.Argument(help="Networks or addresses, like 192.168.1.0/24.", metavar="RANGE…")],
    port: Annotated[list[int] | None, typer.Option(min=1, max=65535, help="Repeatable; 502 if not given.")] = None,
    units: Annotated[str, typer.Option(help="Modbus units to ask on each open port: 1, 1-9 or 1,2,10-12.")] = "1",
    timeout: Annotated[str, typer.Option(help="Of a connection, and of each answer.")] = "1s",
    register: Annotated[bool, typer.Option("--register", help="Add what is new to the registry.")] = False,
    site: Annotated[
        str | None, typer.Option(help="Site of what is registered; on a remote platform, whose edge scans.")
    ] = None,
    readdress: Annotated[
        bool, typer.Option("--readdress", help="Take up the new address of devices that moved.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Also public ranges, and more than 4,096 addresses.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array instead of a table.")] = False,
) -> None:
    """Find devices on a network; only requests that read are sent. The registry is changed only if you say so.

    A device is told by what it says of itself (Modbus 43/14), by its SunSpec marker, or by the registers of a template.
    On a remote platform (`--url`) the edge of the site scans its own network, but for devices that it polls.

    Example: `flux devices scan 192.168.1.0/24 --units 1-9`, then the same with `--register --site WLCE`
    """
    from flux.devices.discovery import ScanOptions, parse_units, targets

    if register and site is None:
        raise InputError("--register needs --site: devices belong to one")
    if chosen() is not None:
        if force:
            raise RefusedError("--force is for scans from the platform's own host: an edge scans private networks only")
        asked = {"ranges": ranges, "ports": port or [502], "units": units, "timeout_s": _seconds(timeout)}
        _scan_at_the_site(site, asked, register=register, readdress=readdress, as_json=as_json)
        return
    hosts = targets(ranges, force=force)
    options = ScanOptions(tuple(port or [502]), tuple(parse_units(units)), _seconds(timeout))

    async def work(conn: Any) -> Any:
        ports = await _scan(conn, hosts, options)
        return ports, *await _against_registry(conn, ports, site, register, readdress)

    ports, found, changed = run_on_database(work)
    _print(found, [_problem(one) for one in ports if one.problem], changed, as_json)
    if not as_json:
        _print_counts(found, asked=len(hosts) * len(options.ports), ports=len(ports))


def _scan_at_the_site(
    site: str | None, asked: dict[str, Any], *, register: bool, readdress: bool, as_json: bool
) -> None:
    """By a job for the site's edge."""
    from flux.api.typed import jobs
    from flux.cli.jobs import over

    if site is None:
        raise InputError("--site is needed with a remote platform: its edge scans")
    with platform() as there:
        ordered = there.call(jobs.scan_site, site=site, body=body(jobs.Scan, **asked))
        typer.echo(f"job {ordered.id}: the edge of {site} scans", err=True)
        job = over(there, ordered, _longest())
        wanted = body(jobs.Compare, register_new=register, readdress=readdress)
        compared = there.call(jobs.compare_found, job=job.id, body=wanted)
    _print(compared.found, job.result["problems"], compared.changed, as_json)
    if as_json:
        return
    places = {(one["host"], one["port"]) for one in (*job.result["found"], *job.result["problems"])}
    _print_counts(compared.found, asked=job.result["asked"], ports=len(places))
    if job.result["left_out"]:
        typer.echo(f"left out, since their devices are polled: {', '.join(job.result['left_out'])}")


def _longest() -> "timedelta":
    """An edge begins within five minutes, and gives up after eight."""
    from datetime import timedelta

    return timedelta(minutes=14)


async def _scan(conn: Any, hosts: list[str], options: "ScanOptions") -> "list[FoundPort]":
    from flux.devices import discovery
    from flux.registry.discovered import known_templates

    templates = await known_templates(conn)
    with progress_bar("scanning", len(hosts) * len(options.ports), unit="devices") as shown:
        return await discovery.scan(hosts, options, templates, shown)


async def _against_registry(
    conn: Any, ports: "list[FoundPort]", site: str | None, register: bool, readdress: bool
) -> "tuple[list[Discovery], list[Device]]":
    from datetime import UTC, datetime

    from flux.registry import discovered

    found = await discovered.compare(conn, [unit for port in ports for unit in port.units], site)
    changed: list[Device] = []
    if register and site is not None:
        changed += await discovered.register(conn, found, site, datetime.now(UTC), actor="scan")
    if readdress:
        changed += await discovered.readdress(conn, found, actor="scan")
    return found, changed


def _seconds(text: str) -> float:
    from flux.model import parse_duration

    try:
        seconds = parse_duration(text).total_seconds()
    except (ValueError, OverflowError):
        raise InputError(f"--timeout {text!r}: write it like 500ms or 2s") from None
    if not 0 < seconds <= 60:
        raise InputError(f"--timeout {text!r}: must be above 0 and at most 60s")
    return seconds


def _print(found: "list[Discovery]", problems: list[dict[str, Any]], changed: "list[Device]", as_json: bool) -> None:
    import dataclasses
    import json

    if as_json:
        rows = [dataclasses.asdict(one.unit) | {"standing": one.standing, "name": one.name} for one in found]
        typer.echo("[" + ",\n ".join(json.dumps(row) for row in (*rows, *problems)) + "]")
    else:
        if found:
            print_table([_row(one) for one in found])
        for one in problems:
            typer.echo(f"{one['host']}:{one['port']}: {one['problem']}")
    for device in changed:
        typer.echo(f"{device.name}: {device.metadata.host}:{device.metadata.port}, {device.state}", err=as_json)


def _print_counts(found: "list[Discovery]", *, asked: int, ports: int) -> None:
    from collections import Counter

    counts = Counter(str(one.standing) for one in found)
    told = ", ".join(f"{count} {standing}" for standing, count in sorted(counts.items())) or "no device"
    typer.echo(f"{asked} addresses asked, {ports} open: {told}")
    if counts["moved"]:
        typer.echo("`--readdress` gives moved devices the address where they were found")


def _problem(port: "FoundPort") -> dict[str, Any]:
    return {"host": port.host, "port": port.port, "problem": port.problem}


def _row(one: "Discovery") -> dict[str, Any]:
    unit: FoundUnit = one.unit
    place = {"address": f"{unit.host}:{unit.port}", "unit": unit.unit, "standing": str(one.standing), "name": one.name}
    about = {"type": unit.type, "manufacturer": unit.manufacturer, "model": unit.model, "serial": unit.serial_number}
    told = {"firmware": unit.firmware_version, "template": unit.template, "recognised_by": unit.recognised_by}
    return {
        key: None if value is None else value if key == "unit" else str(value)
        for key, value in (place | about | told).items()
    }
