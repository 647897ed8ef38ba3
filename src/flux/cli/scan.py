"""``flux devices scan``: find what speaks Modbus, say what it is, register it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flux.cli.shared import print_table, progress_bar, run_on_database

if TYPE_CHECKING:
    from flux.devices.discovery import FoundPort, FoundUnit, ScanOptions
    from flux.model import Device
    from flux.registry.discovered import Discovery


def scan(
    ranges: Annotated[list[str], typer.Argument(help="Networks or addresses, like 192.168.1.0/24.", metavar="RANGE…")],
    port: Annotated[list[int] | None, typer.Option(min=1, max=65535, help="Repeatable; 502 if not given.")] = None,
    units: Annotated[str, typer.Option(help="Modbus units to ask on each open port: 1, 1-9 or 1,2,10-12.")] = "1",
    timeout: Annotated[str, typer.Option(help="Of a connection, and of each answer.")] = "1s",
    register: Annotated[bool, typer.Option("--register", help="Add what is new to the registry.")] = False,
    site: Annotated[str | None, typer.Option(help="Site of what is registered.")] = None,
    readdress: Annotated[
        bool, typer.Option("--readdress", help="Take up the new address of devices that moved.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Also public ranges, and more than 4,096 addresses.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array instead of a table.")] = False,
) -> None:
    """Find devices on a network; only requests that read are sent. The registry is changed only if you say so.

    A device is told by what it says of itself (Modbus 43/14), by its SunSpec marker, or by the registers of a template.

    Example: `flux devices scan 192.168.1.0/24 --units 1-9`, then the same with `--register --site WLCE`
    """
    from flux.devices.discovery import ScanOptions, parse_units, targets
    from flux.errors import InputError

    if register and site is None:
        raise InputError("--register needs --site: devices belong to one")
    hosts = targets(ranges, force=force)
    options = ScanOptions(tuple(port or [502]), tuple(parse_units(units)), _seconds(timeout))

    async def work(conn: Any) -> Any:
        ports = await _scan(conn, hosts, options)
        return ports, *await _against_registry(conn, ports, site, register, readdress)

    ports, found, changed = run_on_database(work)
    if as_json:
        _print_json(ports, found)
    else:
        _print_found(ports, found, len(hosts) * len(options.ports))
    for device in changed:
        typer.echo(f"{device.name}: {device.metadata.host}:{device.metadata.port}, {device.state}", err=as_json)


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
    from flux.errors import InputError
    from flux.model import parse_duration

    try:
        seconds = parse_duration(text).total_seconds()
    except (ValueError, OverflowError):
        raise InputError(f"--timeout {text!r}: write it like 500ms or 2s") from None
    if not 0 < seconds <= 60:
        raise InputError(f"--timeout {text!r}: must be above 0 and at most 60s")
    return seconds


def _print_found(ports: "list[FoundPort]", found: "list[Discovery]", asked: int) -> None:
    from collections import Counter

    if found:
        print_table([_row(one) for one in found])
    for port in ports:
        if port.problem:
            typer.echo(f"{port.host}:{port.port}: {port.problem}")
    counts = Counter(str(one.standing) for one in found)
    told = ", ".join(f"{count} {standing}" for standing, count in sorted(counts.items())) or "no device"
    typer.echo(f"{asked} addresses asked, {len(ports)} open: {told}")
    if counts["moved"]:
        typer.echo("`--readdress` gives moved devices the address where they were found")


def _row(one: "Discovery") -> dict[str, Any]:
    unit: FoundUnit = one.unit
    place = {"address": f"{unit.host}:{unit.port}", "unit": unit.unit, "standing": str(one.standing), "name": one.name}
    about = {"type": unit.type, "manufacturer": unit.manufacturer, "model": unit.model, "serial": unit.serial_number}
    told = {"firmware": unit.firmware_version, "template": unit.template, "recognised_by": unit.recognised_by}
    return {
        key: None if value is None else value if key == "unit" else str(value)
        for key, value in (place | about | told).items()
    }


def _print_json(ports: "list[FoundPort]", found: "list[Discovery]") -> None:
    import dataclasses
    import json

    rows = [dataclasses.asdict(one.unit) | {"standing": one.standing, "name": one.name} for one in found]
    rows += [{"host": p.host, "port": p.port, "problem": p.problem} for p in ports if p.problem]
    typer.echo("[" + ",\n ".join(json.dumps(row) for row in rows) + "]")
