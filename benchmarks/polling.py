"""Devices polled per second on one core: Flux's driver against a bare pymodbus loop that reads the same three blocks.

Both run in this process against the same Modbus TCP server on loopback, which runs in a process of its own, in turns,
so that neither has the quieter machine. What counts is the CPU time of this process for each poll: the server's share
and the wait for it are the same for both. The bare loop does not decode, check, count or retry anything.
"""

import asyncio
import multiprocessing
import socket
import statistics
import struct
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import UUID

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.server import StartAsyncTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from flux.devices.client import ConnectionPool
from flux.devices.codec import plan_blocks
from flux.devices.driver import driver_for
from flux.devices.template import builtin_template
from flux.model import Device, DeviceType, MeterMetadata

ROUNDS = 8
POLLS = 800
AIM = 0.7

_TEMPLATE = "acuvim2_standard"


def main() -> None:
    """Print polls per second of both, and their ratio."""
    port = _free_port()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(port,), daemon=True)
    server.start()
    try:
        asyncio.run(_measure(port))
    finally:
        server.terminate()
        server.join()


async def _measure(port: int) -> None:
    await _until_listening(port)
    bare: list[float] = []
    flux: list[float] = []
    blocks = _blocks()
    client = AsyncModbusTcpClient("127.0.0.1", port=port)
    await client.connect()
    try:
        async with ConnectionPool() as pool:
            driver = driver_for(_device(port), builtin_template(_TEMPLATE), pool, lambda: datetime.now(UTC))

            async def flux_poll() -> None:
                driver.reading(await driver.poll())

            async def bare_poll() -> None:
                for address, count in blocks:
                    await client.read_holding_registers(address, count=count, device_id=1)

            for _ in range(ROUNDS):
                bare.append(await _cpu_per_poll(bare_poll))
                flux.append(await _cpu_per_poll(flux_poll))
    finally:
        client.close()
    bare_s, flux_s = statistics.median(bare), statistics.median(flux)
    print(f"bare pymodbus  {1 / bare_s:8.0f} polls/s per core ({bare_s * 1e6:.0f} µs)")
    print(f"flux driver    {1 / flux_s:8.0f} polls/s per core ({flux_s * 1e6:.0f} µs)")
    print(f"ratio          {bare_s / flux_s:8.2f}  (aim ≥ {AIM})")


async def _cpu_per_poll(poll: Callable[[], Awaitable[None]]) -> float:
    for _ in range(20):
        await poll()
    started = time.process_time()
    for _ in range(POLLS):
        await poll()
    return (time.process_time() - started) / POLLS


def _blocks() -> list[tuple[int, int]]:
    template = builtin_template(_TEMPLATE)
    plan = plan_blocks(template.readable, template.max_block_words, template.max_gap_words)
    return [(block.address, block.count) for block in plan]


def _device(port: int) -> Device:
    now = datetime.now(UTC)
    metadata = MeterMetadata(host="127.0.0.1", port=port, ct_ratio=40.0, register_map=_TEMPLATE)
    return Device(
        id=UUID(int=1),
        name="BENCH-METER",
        type=DeviceType.METER,
        site="WLCE",
        metadata=metadata,
        created_at=now,
        updated_at=now,
    )


def _serve(port: int) -> None:
    """A meter whose floats are all 0.5 and whose counters stand somewhere."""
    words = list(struct.unpack(">2H", struct.pack(">f", 0.5)))
    data = [
        SimData(12288, values=words * 30, datatype=DataType.REGISTERS),
        SimData(16456, values=[12, 34567] * 4, datatype=DataType.REGISTERS),
        SimData(17952, values=[12, 34567] * 6, datatype=DataType.REGISTERS),
    ]
    asyncio.run(StartAsyncTcpServer(SimDevice(1, simdata=data), address=("127.0.0.1", port)))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _until_listening(port: int) -> None:
    async with asyncio.timeout(15):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                await writer.wait_closed()
                return


if __name__ == "__main__":
    main()
