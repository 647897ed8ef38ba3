"""A fleet on 127.0.77.0/24 to be scanned: what a commissioning engineer finds on a site's network, and worse."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from flux.devices.registers import Function
from flux.devices.simulator import DeviceConfig, SimClock, SimConfig, SimulatedSite, SimulatorServer
from flux.devices.simulator.config import BatteryConfig
from flux.devices.simulator.protocol import answer
from flux.devices.template import builtin_template
from flux.model import DeviceType, MeterType

NETWORK = "127.0.77.0/24"
START = datetime(2026, 1, 15, 12, tzinfo=UTC)
IDENTIFY = 43
_BATTERY = BatteryConfig(capacity_kwh=500, charge_limit_kw=100, discharge_limit_kw=105, blocks=10)
_TYPES = {"tesla_powerpack": DeviceType.BESS, "powerpack_bess": DeviceType.BESS, "acuvim2_standard": DeviceType.METER}


def host(number: int) -> str:
    return f"127.0.77.{number}"


def device(name: str, template: str, number: int, port: int, unit: int = 1) -> DeviceConfig:
    kind = _TYPES[template]
    return DeviceConfig(
        name=name,
        type=kind,
        template=template,
        host=host(number),
        port=port,
        unit=unit,
        serial_number=f"SN-{name}",
        battery=_BATTERY if kind is DeviceType.BESS else None,
        meter_type=MeterType.LOAD if kind is DeviceType.METER else None,
    )


def free_port() -> int:
    """One that nobody has, on any of the fleet's addresses."""
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        return int(probe.getsockname()[1])


Handler = Callable[[int, bytes], Awaitable[bytes | None] | bytes | None]
"""Unit and message in; the message that goes back, None: nothing."""


@asynccontextmanager
async def modbus_server(number: int, port: int, handler: Handler, asked: list[int]) -> AsyncIterator[None]:
    """Modbus TCP framing around a handler; ``asked`` gets the function of every request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                tid, _, length, unit = struct.unpack(">HHHB", await reader.readexactly(7))
                message = await reader.readexactly(length - 1)
                asked.append(message[0])
                reply = handler(unit, message)
                reply = await reply if isinstance(reply, Awaitable) else reply
                if reply is not None:
                    writer.write(struct.pack(">HHHB", tid, 0, len(reply) + 1, unit) + reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the scan has hung up
        finally:
            writer.close()

    async with plain_server(number, port, serve):
        yield


@asynccontextmanager
async def plain_server(
    number: int, port: int, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> AsyncIterator[None]:
    tasks: set[asyncio.Task[None]] = set()

    async def kept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            tasks.add(task)
        await serve(reader, writer)

    server = await asyncio.start_server(kept, host(number), port)
    try:
        yield
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def refuses_identification(template: str, *, silent: bool = False, delay_s: float = 0) -> Handler:
    """A device of this kind that does not know function 43, or passes over it; answering late, if it is to."""
    site = SimulatedSite(SimConfig(site="X", devices=(device("X", template, 1, 1),)), START)
    (simulated,) = site.devices

    async def handle(unit: int, message: bytes) -> bytes | None:
        if unit != 1:
            return None
        await asyncio.sleep(delay_s)
        if message[0] == IDENTIFY:
            return None if silent else bytes((IDENTIFY | 0x80, 1))
        return answer(simulated, message).message

    return handle


def holds(words: dict[int, int], *, elsewhere: int | None = None) -> Handler:
    """Holding registers as given; others refused, or ``elsewhere`` in each."""

    def handle(_unit: int, message: bytes) -> bytes:
        if message[0] != 3:
            return bytes((message[0] | 0x80, 1))
        address, count = struct.unpack_from(">HH", message, 1)
        values = [words.get(address + n, elsewhere) for n in range(count)]
        if None in values:
            return bytes((0x83, 2))
        return struct.pack(f">BB{count}H", 3, 2 * count, *values)

    return handle


def sunspec_meter(serial: str) -> dict[int, int]:
    """The common model at 40000, a meter's model (203) after it, and the end."""

    def text(value: str, words: int) -> list[int]:
        return list(struct.unpack(f">{words}H", value.encode().ljust(2 * words, b"\0")))

    words = [0x5375, 0x6E53, 1, 66, *text("Acme", 16), *text("Meter 3", 16), *text("", 8), *text("2.1", 8)]
    words += [*text(serial, 16), 1, 0x8000, 203, 105, *([0] * 105), 0xFFFF, 0]
    return {40000 + n: word for n, word in enumerate(words)}


@dataclass
class Fleet:
    """Where it listens, and which functions were asked of anybody."""

    port: int
    asked: list[int] = field(default_factory=list)


async def _hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def _http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    writer.close()


async def _say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


@asynccontextmanager
async def fleet() -> AsyncIterator[Fleet]:
    """The whole of it, for as long as the block."""
    here = Fleet(free_port())
    port, asked = here.port, here.asked
    site = SimConfig(
        site="WLCE",
        devices=(
            device("TESLA", "tesla_powerpack", 1, port),
            device("PACK", "powerpack_bess", 2, port),
            device("METER-1", "acuvim2_standard", 3, port, unit=1),
            device("METER-2", "acuvim2_standard", 3, port, unit=2),
        ),
    )
    clock = SimClock(START, speed=0)
    handlers: Sequence[tuple[int, Handler]] = (
        (4, refuses_identification("acuvim2_standard")),
        (5, refuses_identification("powerpack_bess", silent=True)),
        (6, refuses_identification("tesla_powerpack")),
        (7, refuses_identification("acuvim2_standard", delay_s=0.1)),
        (10, holds(sunspec_meter("SUN-1"))),
        (12, holds({}, elsewhere=0)),
        (13, lambda _unit, message: bytes((message[0] | 0x80, 11))),
    )
    async with AsyncExitStack() as stack:
        simulated = SimulatedSite(site, clock())
        await stack.enter_async_context(
            SimulatorServer(simulated, clock, on_reply=lambda reply: asked.append(reply.function))
        )
        for number, handler in handlers:
            await stack.enter_async_context(modbus_server(number, port, handler, asked))
        for number, serve in ((8, _hang_up), (9, _http), (11, _say_nothing)):
            await stack.enter_async_context(plain_server(number, port, serve))
        yield here


def readable_functions() -> set[int]:
    """What a scan may ask: the two reads, and who somebody is."""
    return {3 if builtin_template("tesla_powerpack").function is Function.HOLDING else 4, 3, 4, IDENTIFY}
