"""The client against a server that does anything at all: no answer is ever that of another question."""

import asyncio
import random
import struct

import pytest
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice
from tests.devices.raw_server import RawServer, Request, registers

from flux.devices import client as client_module
from flux.devices import patience
from flux.devices.client import ConnectionPool, ModbusConnection, ModbusLink
from flux.devices.transport import DeviceFaultError
from flux.errors import DeviceError

UNITS = (1, 2)
TIMEOUT_S = 0.05


def words_at(unit: int, address: int, count: int) -> tuple[int, ...]:
    """What a register holds says which it is, so that a mix-up is seen."""
    return tuple(unit * 10_000 + one for one in range(address, address + count))


KINDS = [
    "late",
    "late ones first",
    "late ones after",
    "nothing",
    "half",
    "half, then closed",
    "another transaction",
    "garbage",
    "exception",
    "another unit",
]


class Chaos:
    """Answers rightly about every other time, else late, wrongly, in part or not at all."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._held: list[bytes] = []
        self.wild = True
        self.kinds: set[str] = set()

    def right(self, request: Request) -> bytes:
        if request.function == 16:
            return request.frame()
        return request.packed(registers(request.function, words_at(request.unit, request.address, request.count)))

    def __call__(self, request: Request) -> None:
        right = self.right(request)
        if not self.wild or self._random.random() < 0.5:
            request.send(right)
            return
        kind = self._random.choice(KINDS + 3 * KINDS[:2])  # the dangerous ones more often
        self.kinds.add(kind)
        data, closed = self._wrong(kind, right, request)
        request.send(data)
        if closed:
            request.hang_up()

    def _wrong(self, kind: str, right: bytes, request: Request) -> tuple[bytes, bool]:
        """What is sent, and whether the connection is closed thereafter."""
        source = self._random
        half = right[: source.randrange(len(right))]
        match kind:
            case "late":
                self._held.append(right)
                return b"", False
            case "late ones first":
                return b"".join([*self._drain(), right]), False
            case "late ones after":
                return b"".join([right, *self._drain()]), False
            case "half" | "half, then closed":
                return half, kind != "half"
            case "another transaction":
                return struct.pack(">H", source.randrange(65536)) + right[2:], False
            case "garbage":
                return source.randbytes(source.randrange(1, 60)), False
            case "exception":
                return request.fault(source.choice([2, 4, 6, 11])), False
            case "another unit":
                return right[:6] + bytes([request.unit + 1]) + right[7:], False
        return b"", False

    def _drain(self) -> list[bytes]:
        held, self._held = self._held, []
        return held


async def read_often(link: ModbusLink, unit: int, seed: int, times: int) -> int:
    """How many reads and writes succeeded; each that did must have given what was asked for."""
    source, good = random.Random(seed), 0
    for _ in range(times):
        address, count = source.randrange(0, 900), source.randrange(1, 3)
        try:
            if source.random() < 0.2:
                await link.write(unit, address, [1] * count)
            else:
                assert tuple(await link.read(unit, address, count)) == words_at(unit, address, count)
            good += 1
        except DeviceError:
            pass  # told, which is all that can be asked of it here
    return good


async def eventually(link: ModbusLink, unit: int) -> tuple[int, ...]:
    """The first read that succeeds; a unit thought dead is not asked each time."""
    async with asyncio.timeout(10):
        while True:
            try:
                return tuple(await link.read(unit, 5, 2))
            except DeviceError:
                await asyncio.sleep(0.01)


async def run_chaos(seed: int, times: int) -> None:
    chaos = Chaos(seed)
    async with RawServer(chaos) as server, ConnectionPool() as pool:
        link = pool.get("127.0.0.1", server.port, timeout_s=TIMEOUT_S, retries=2)
        good = await asyncio.gather(
            *(read_often(link, unit, seed + number, times) for number in range(3) for unit in UNITS)
        )
        assert min(good) > 0
        assert chaos.kinds == set(KINDS)
        chaos.wild = False
        for unit in UNITS:
            assert await eventually(link, unit) == words_at(unit, 5, 2)
        counters = link.connection.counters()
        assert counters.timeouts > 0
        assert counters.errors > 0
        assert counters.late_replies > 0
        assert counters.reconnects > 0


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_FIRST_RETRY_S", 0.001)
    monkeypatch.setattr(client_module, "_LAST_RETRY_S", 0.002)
    monkeypatch.setattr(client_module, "_FIRST_RECONNECT_S", 0.001)
    monkeypatch.setattr(client_module, "_LAST_RECONNECT_S", 0.01)
    monkeypatch.setattr(patience, "FIRST_PROBE_S", 0.001)
    monkeypatch.setattr(patience, "LAST_PROBE_S", 0.01)


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_answer_is_that_of_another_question(seed: int) -> None:
    await run_chaos(seed, 25)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 103))
async def test_no_answer_is_that_of_another_question_for_long(seed: int) -> None:
    await run_chaos(seed, 200)


async def test_it_talks_to_a_server_that_others_wrote() -> None:
    """pymodbus's own server: reads, writes that stay, and its exception for what is not there."""
    data = [SimData(100, values=list(range(20)), datatype=DataType.REGISTERS)]
    server = ModbusTcpServer(SimDevice(3, simdata=data), address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    connection = ModbusConnection("127.0.0.1", port_of(server))
    try:
        assert tuple(await connection.read(3, 105, 3)) == (5, 6, 7)
        await connection.write(3, 105, [1000, 65535])
        assert tuple(await connection.read(3, 105, 3)) == (1000, 65535, 7)
        with pytest.raises(DeviceFaultError, match="illegal data address"):
            await connection.read(3, 200, 1)
        with pytest.raises(DeviceFaultError, match="illegal data address"):
            await connection.write(3, 200, [1])
    finally:
        await connection.aclose()
        await server.shutdown()  # type: ignore[no-untyped-call]


def port_of(server: ModbusTcpServer) -> int:
    transport = server.transport
    assert isinstance(transport, asyncio.Server)
    port: int = transport.sockets[0].getsockname()[1]
    return port
