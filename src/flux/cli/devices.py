"""``flux devices``: the registry."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flux.cli import maintenance
from flux.cli.platform import body, chosen, platform
from flux.cli.shared import actor, choice, print_table, run_on_database
from flux.errors import DeviceError, InputError, NotFoundError

if TYPE_CHECKING:
    from flux.cli.platform import Platform
    from flux.model import Device

app = typer.Typer(no_args_is_help=True, help="The registry: every device, what it is and what state it is in.")
app.add_typer(maintenance.app, name="maintenance")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("list")
def list_(
    site: Annotated[str | None, typer.Option(help="Only this site.")] = None,
    type: Annotated[str | None, typer.Option(help="bess or meter.")] = None,
    state: Annotated[str | None, typer.Option(help="Only devices in this state, e.g. active.")] = None,
    as_json: AsJson = False,
) -> None:
    """List devices (those decommissioned only with `--state decommissioned`).

    Example: `flux devices list --site WLCE --state active`
    """
    from flux.api.typed import devices
    from flux.model import DeviceState, DeviceType

    wanted_type = choice(DeviceType, type, "--type")
    wanted_state = choice(DeviceState, state, "--state")
    with platform() as there:
        found = there.call(devices.list_devices, site=site, type=wanted_type, state=wanted_state)
    if as_json:
        typer.echo("[" + ",\n ".join(device.model_dump_json() for device in found) + "]")
        return
    if not found:
        typer.echo("no devices; `flux devices add --help` shows how to register one")
        return
    print_table([_table_row(device) for device in found])


@app.command()
def show(name: Annotated[str, typer.Argument(help="Name or id.")], as_json: AsJson = False) -> None:
    """Show one device with its metadata and history.

    Example: `flux devices show WLCE-BESS-01`
    """
    from flux.api.typed import devices

    with platform() as there:
        device = there.call(devices.show_device, name=name)
        events = there.call(devices.device_events, name=str(device.id))
    if as_json:
        typer.echo(device.model_dump_json(indent=2))
        return
    _print_device(device, events)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Name, unique among devices not decommissioned.")],
    type: Annotated[str, typer.Option(help="bess or meter.")],
    site: Annotated[str, typer.Option(help="Site code; a new one is made by itself.")],
    template: Annotated[str | None, typer.Option(help="Template, e.g. tesla_powerpack, acuvim2_standard.")] = None,
    host: Annotated[str | None, typer.Option(help="Address of its Modbus TCP server.")] = None,
    port: Annotated[int, typer.Option(help="Port of its Modbus TCP server.")] = 502,
    unit: Annotated[int, typer.Option(help="Modbus unit id.")] = 1,
    metadata: Annotated[list[str] | None, typer.Option("--set", help="More metadata: key=value, repeatable.")] = None,
) -> None:
    """Register a device. With a template and a host it is polled from then on.

    Example: `flux devices add WLCE-GRID-METER --type meter --site WLCE --template acuvim2_standard
    --host 192.168.1.20 --set meter_type=grid --set ct_ratio=200`
    """
    from flux.api.typed import devices
    from flux.model import DeviceType
    from flux.registry import parse_new_device

    kind = choice(DeviceType, type, "--type")
    template_key = "template" if kind is DeviceType.BESS else "register_map"
    values = {"host": host, template_key: template, "port": port, "modbus_address": unit}
    given = {key: value for key, value in values.items() if value is not None}
    new = parse_new_device({"name": name, "type": type, "site": site, "metadata": given | _key_values(metadata or [])})

    with platform() as there:
        done = there.call(devices.register_device, body=new)
    for doubt in done.doubts:
        typer.secho(f"warning: {name}: {doubt}", fg="yellow", err=True)
    typer.echo(f"{done.device.name} is registered at {done.device.site}; state: {done.device.state}")


@app.command("set")
def set_(
    name: Annotated[str, typer.Argument(help="Name or id.")],
    pairs: Annotated[list[str], typer.Argument(help="key=value, several; key= takes the key out.")],
    unchanged_since: Annotated[
        str | None, typer.Option(help="Refuse if it was changed after this time (updated_at of `show --json`).")
    ] = None,
) -> None:
    """Change a device's metadata; other keys stay.

    Example: `flux devices set WLCE-GRID-METER ct_ratio=200 host=192.168.1.21`
    """
    from datetime import datetime

    from flux.api.typed import devices

    try:
        since = datetime.fromisoformat(unchanged_since) if unchanged_since else None
    except ValueError:
        raise InputError(f"--unchanged-since {unchanged_since}: write it like 2026-02-01T02:00:00Z") from None
    removed = [pair[:-1] for pair in pairs if pair.endswith("=")]
    changes = _key_values([pair for pair in pairs if not pair.endswith("=")])

    change = body(devices.MetadataChange, set=changes, remove=removed, unchanged_since=since)
    with platform() as there:
        done = there.call(devices.change_metadata, name=name, body=change)
    before, after = done.before, done.device
    old, new = (device.metadata.model_dump(mode="json", exclude_none=True) for device in (before, after))
    for key in sorted({*changes, *removed}):
        typer.echo(f"{after.name}: {key} {old.get(key, '–')} → {new.get(key, '–')}")
    if before.state != after.state:
        typer.echo(f"{after.name} is in {after.state} now")


@app.command("history")
def history_(name: Annotated[str, typer.Argument(help="Name or id.")], as_json: AsJson = False) -> None:
    """Show what a device has been through: each change of state, who made it and why.

    Example: `flux devices history WLCE-BESS-01`
    """
    from flux.api.typed import devices

    with platform() as there:
        events = there.call(devices.device_events, name=name)
    if as_json:
        import dataclasses
        import json

        typer.echo(json.dumps([dataclasses.asdict(event) for event in events], indent=1, default=str))
        return
    columns = ("time", "from_state", "to_state", "trigger", "actor", "reason")
    print_table([{column: getattr(event, column) for column in columns} for event in events])


@app.command("apply-template")
def apply_template(
    template: Annotated[str, typer.Option(help="A file, or the name of a template.")],
    filter: Annotated[str, typer.Option(help='Which devices, e.g. "type=bess,site=WLCE": columns and metadata.')],
    commit: Annotated[
        bool, typer.Option("--commit", help="Do it; without this only what would change is shown.")
    ] = False,
) -> None:
    """Give a template to many devices: shows what changes of each, and with --commit does it, for all or none.

    Pollers take the new registers up while they run.

    Example: `flux devices apply-template --template powerpack_bess.yaml --filter "type=bess,site=WLCE" --commit`
    """
    from flux.api.typed import templates

    with platform() as there:
        given, text = _template_given(there, template)
        wanted = body(templates.TemplateApply, template=given, text=text, filter=filter, commit=commit)
        changes = there.call(templates.apply_template_to, body=wanted).changes
    for change in changes:
        typer.echo(f"{change.device.name}: {'nothing changes' if not change.lines else ''}".rstrip(": "))
        for line in change.lines:
            typer.echo(f"  {line}")
    changed = sum(1 for change in changes if change.lines)
    if commit:
        typer.echo(f"{changed} of {len(changes)} devices changed")
    elif changed:
        typer.echo(f"{changed} of {len(changes)} devices would change; --commit does it")


@app.command()
def test(name: Annotated[str, typer.Argument(help="Name or id.")]) -> None:
    """Poll a device once, from here: configured, testing or failed becomes active, or failed with the reason.

    On a remote platform (`--url`) the edge of its site polls it.

    Example: `flux devices test WLCE-BESS-01`
    """
    from datetime import UTC, datetime

    from flux.registry import get_device, run_device_test

    if chosen() is not None:
        _test_at_the_site(name)
        return

    async def work(conn: Any) -> Any:
        device = await get_device(conn, name)
        return device.state, await run_device_test(conn, device, lambda: datetime.now(UTC), actor=actor())

    before, result = run_on_database(work)
    told = {"values": result.values, "problems": result.problems, "failure": result.failure}
    _print_test(before, result.device, told | {"response_time_ms": result.response_time_ms})


def _test_at_the_site(name: str) -> None:
    """By a job for the edge of the device's site."""
    from datetime import timedelta

    from flux.api.typed import devices, jobs
    from flux.cli.jobs import over

    with platform() as there:
        before = there.call(devices.show_device, name=name)
        ordered = there.call(jobs.test_device, name=str(before.id), body=body(jobs.Test, within=timedelta(minutes=1)))
        job = over(there, ordered, timedelta(minutes=3))
        after = there.call(devices.show_device, name=str(before.id))
    _print_test(before.state, after, job.result)


def _print_test(before: str, device: "Device", told: dict[str, Any]) -> None:
    """``told``: values, problems, failure and response_time_ms of a test."""
    if told["values"]:
        print_table([{"register": key, "value": value} for key, value in told["values"].items()])
    for problem in told["problems"]:
        typer.secho(f"warning: {problem}", fg="yellow", err=True)
    if told["failure"] is not None:
        raise DeviceError(f"{told['failure']}; {device.name} is {device.state}")
    typer.echo(f"{device.name} answers in {told['response_time_ms']:.0f} ms: {before} → {device.state}")


@app.command()
def decommission(
    name: Annotated[str, typer.Argument(help="Name or id.")],
    reason: Annotated[str, typer.Option(help="Why, e.g. replaced.")],
) -> None:
    """End the life of a device: it is never polled or controlled again, its name becomes free.

    Its readings stay, and are archived before anything may drop them. This can't be undone.

    Example: `flux devices decommission WLCE-BESS-01 --reason replaced`
    """
    from flux.api.typed import devices

    with platform() as there:
        device = there.call(devices.decommission_device, name=name, body=body(devices.Why, reason=reason))
    typer.echo(f"{device.name} is decommissioned; its name is free, its readings stay under id {device.id}")


def _template_given(there: "Platform", name_or_file: str) -> tuple[str, str | None]:
    """The name of a template, and its text where it is a file here, checked.

    ``powerpack_bess.yaml`` means the template ``powerpack_bess`` where there is no such file here.
    """
    from pathlib import Path

    from flux.api.typed import templates
    from flux.devices.template import load_template

    file = Path(name_or_file)
    if file.is_file():
        return load_template(file).name, file.read_text(encoding="utf-8")
    if file.suffix not in {".yaml", ".yml", ".json"}:
        return name_or_file, None
    try:
        return there.call(templates.show_template, template=file.stem).name, None
    except NotFoundError:
        load_template(file)  # which says that there is no such file
        raise


def _key_values(pairs: list[str]) -> dict[str, Any]:
    """``["ct_ratio=200", "model=X"]`` → ``{"ct_ratio": 200, "model": "X"}``: values are JSON where they can be."""
    import json

    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise InputError(f"--set {pair!r}: write it as key=value")
        try:
            parsed[key] = json.loads(value)
        except json.JSONDecodeError:
            parsed[key] = value
    return parsed


def _table_row(device: "Device") -> dict[str, Any]:
    metadata = device.metadata
    return {
        "name": device.name,
        "site": device.site,
        "type": str(device.type),
        "state": str(device.state),
        "active": "yes" if device.active else "no",
        "template": metadata.template_name,
        "address": f"{metadata.host}:{metadata.port}/{metadata.modbus_address}" if metadata.host else None,
    }


def _print_device(device: "Device", events: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, emoji=False)  # what people wrote is no markup
    console.print(device.name, style="bold", end="")
    console.print(f"  {device.type} at {device.site}, {device.state}  ({device.id})")
    values = device.metadata.model_dump(mode="json", exclude_none=True)
    table = Table(box=None, show_header=False)
    for key, value in values.items():
        table.add_row(key, str(value))
    console.print(table)
    for event in events:
        why = f": {event.reason}" if event.reason else ""
        console.print(
            f"{event.time:%Y-%m-%d %H:%M:%S} {event.from_state or '–'} → {event.to_state}"
            f" ({event.trigger}, {event.actor or 'unknown'}){why}",
            highlight=False,
        )
