"""``flux sim``: a simulated site on Modbus TCP."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flux.errors import InputError

if TYPE_CHECKING:
    from datetime import datetime

    from flux.devices.simulator import Clock, SimConfig, SimulatorServer, StateFile


def sim(
    site: Annotated[str | None, typer.Option(help="Site code of the built-in demo site; default WLCE.")] = None,
    config: Annotated[Path | None, typer.Option(help="A site of your own, in YAML (docs/simulator.md).")] = None,
    host: Annotated[str | None, typer.Option(help="Address of the built-in site's devices; default 127.0.0.1.")] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Its first port, the others follow; default 15020; 0: any free ones."),
    ] = None,
    state: Annotated[Path | None, typer.Option(help="File that keeps counters and energy over a restart.")] = None,
    load: Annotated[Path | None, typer.Option(help="CSV of the load: columns UTCTime, energy (kWh per row).")] = None,
    load_scale: Annotated[float, typer.Option(min=0, help="Multiplies the load.")] = 1.0,
    solar: Annotated[Path | None, typer.Option(help="CSV of the solar energy, as --load.")] = None,
    solar_scale: Annotated[float, typer.Option(min=0, help="Multiplies the solar energy.")] = 1.0,
    speed: Annotated[float, typer.Option(help="60: a simulated hour takes a minute.")] = 1.0,
    start: Annotated[str | None, typer.Option(help="Simulated time to start at, like 2026-01-15T16:00Z.")] = None,
    fault: Annotated[
        list[str] | None, typer.Option(help="DEVICE:KIND[:ARG][,p=…,after=…,for=…], repeatable; * = every device.")
    ] = None,
    faults_file: Annotated[
        Path | None, typer.Option(help="JSON list of faults that is read again whenever it changes.")
    ] = None,
    reply_log: Annotated[Path | None, typer.Option(help="Append each answer given, one JSON object a line.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the devices as one line of JSON.")] = False,
) -> None:
    """Simulate a site: a battery and meters on Modbus TCP, with physics that balance.

    Each device listens on a port of its own. Ctrl-C stops it; with `--state` it goes on where it was.

    Examples: `flux sim --state sim.json`

    `flux sim --speed 60 --fault "WLCE-GRID-METER:delay:2s,p=0.1"`

    `flux sim --load load.csv --load-scale 4.5 --start 2026-01-15T16:00Z --speed 30`

    Faults: drop, delay:2s, garbage, exception:CODE, refuse-writes, lag:30s, noise:KW, blocks:N, tripped,
    reset, restart:5s.
    """
    from flux.config import load_settings
    from flux.config.logs import configure_logging

    if config is not None and (site, host, port) != (None, None, None):
        raise InputError("--config says where each device is; leave out --site, --host and --port")
    site_config = _site_config(config, site, host, port)
    site_config = _with_source(_with_source(site_config, "load", load, load_scale), "solar", solar, solar_scale)
    server = _server(site_config, state, speed, start, fault or [], faults_file, reply_log)
    configure_logging(load_settings())
    _run(server, speed, as_json)


def _site_config(config: Path | None, site: str | None, host: str | None, port: int | None) -> "SimConfig":
    from pydantic import ValidationError

    from flux.devices.simulator import demo_site, load_sim_config

    if config is not None:
        return load_sim_config(config)
    first = 15020 if port is None else port
    if first > 65531:
        raise InputError(f"--port {first}: five ports from there on are needed")
    try:
        return demo_site(site or "WLCE", host=host or "127.0.0.1", port=first)
    except ValidationError as error:
        raise InputError(f"--site {site!r}: {error.errors()[0]['msg']}") from None


def _with_source(config: "SimConfig", which: str, file: Path | None, scale: float) -> "SimConfig":
    """The config with its load or solar from a file, scaled."""
    source = getattr(config, which)
    changes: dict[str, Any] = {"scale": source.scale * scale}
    if file is not None:
        changes |= {"file": file, "constant_kw": None}
    return config.model_copy(update={which: source.model_copy(update=changes)})


def _server(
    config: "SimConfig",
    state: Path | None,
    speed: float,
    start: str | None,
    faults: list[str],
    faults_file: Path | None,
    reply_log: Path | None,
) -> "SimulatorServer":
    from flux.devices.simulator import FaultBoard, ReplyLog, SimulatedSite, SimulatorServer, StateFile, parse_fault
    from flux.devices.simulator.server import check_device

    state_file = StateFile(state) if state is not None else None
    clock = _clock(speed, _instant(start), state_file)
    site = SimulatedSite(config, clock())
    board = FaultBoard()
    for text in faults:
        fault = parse_fault(text)
        check_device(fault, site)
        board.add(fault, clock())
    return SimulatorServer(
        site,
        clock,
        speed=speed,
        state=state_file,
        faults=board,
        faults_file=faults_file,
        on_reply=ReplyLog(reply_log) if reply_log is not None else None,
    )


def _clock(speed: float, start: "datetime | None", state: "StateFile | None") -> "Clock":
    """The real time; at another speed or start a time of its own, which goes on from where the state left it."""
    from flux.devices.simulator import SimClock, saved_time, system_clock

    if not 0 < speed <= 100_000:
        raise InputError(f"--speed {speed:g} is outside 0 to 100000")
    if speed == 1 and start is None:
        return system_clock
    saved = saved_time(state) if state is not None else None
    return SimClock(saved or start or system_clock(), speed)


def _instant(text: str | None) -> "datetime | None":
    from datetime import UTC, datetime

    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"--start {text!r} is no time; write it like 2026-01-15T16:00Z") from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _run(server: "SimulatorServer", speed: float, as_json: bool) -> None:
    import asyncio
    import signal

    import uvloop

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        async with server:
            _show(server, speed, as_json)
            waits = [asyncio.create_task(stop.wait()), asyncio.create_task(server.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


def _show(server: "SimulatorServer", speed: float, as_json: bool) -> None:
    import json

    devices = [
        {
            "name": device.name,
            "type": str(device.type),
            "template": device.template.name,
            "host": device.host,
            "port": device.port,
            "unit": device.unit,
            "metadata": device.metadata,
        }
        for device in server.devices
    ]
    site = server.site
    if as_json:
        line = {"site": site.config.site, "time": site.time.isoformat(), "speed": speed, "devices": devices}
        print(json.dumps(line), flush=True)
        return
    _print_table(f"Simulated site {site.config.site}, {site.time:%Y-%m-%d %H:%M:%S} UTC, speed {speed:g}", devices)


def _print_table(title: str, devices: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for column in ("device", "what", "template", "address/unit"):
        table.add_column(column, no_wrap=True)
    for device in devices:
        metadata = device["metadata"]
        is_bess = device["type"] == "bess"
        what = (
            f"{metadata['capacity_kwh']:g} kWh, {metadata['max_power_kw']:g} kW"
            if is_bess
            else f"{metadata['meter_type']} meter"
        )
        address = f"{device['host']}:{device['port']}/{device['unit']}"
        table.add_row(device["name"], what, device["template"], address)
    console = Console()
    console.print(table)
    console.print("Ctrl-C stops it.", style="dim")
