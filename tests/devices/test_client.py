"""The Modbus client against servers that misbehave, over real sockets."""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
from tests.devices.raw_server import RawServer, Request, obey, registers

from flux.devices import client as client_module
from flux.devices.client import ConnectionPool, ModbusConnection
from flux.devices.registers import Function
from flux.devices.transport import (
    BadReplyError,
    DeviceFaultError,
    DeviceTimeoutError,
    DeviceUnreachableError,
)

LONG_S = 30.0
"""A time limit that no test waits for: what ends sooner did not wait for it."""


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    async with RawServer() as server:
        yield server


@pytest.fixture
async def connection(server: RawServer) -> AsyncIterator[ModbusConnection]:
    connection = ModbusConnection("127.0.0.1", server.port)
    yield connection
    await connection.aclose()


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(client_module, "_FIRST_RECONNECT_S", 0.02)
    monkeypatch.setattr(client_module, "_SLICE_S", 0.02)


# --- as it should be


async def test_reads_registers_and_inputs(server: RawServer, connection: ModbusConnection) -> None:
    assert list(await connection.read(7, 100, 3)) == [100, 101, 102]
    assert list(await connection.read(7, 5, 1, function=Function.INPUT)) == [5]
    assert [(r.unit, r.function) for r in server.requests] == [(7, 3), (7, 4)]
    assert connection.counters().requests == 2


async def test_writes_are_echoed(server: RawServer, connection: ModbusConnection) -> None:
    await connection.write(1, 1020, [0, 50000])
    (request,) = server.requests
    assert (request.function, request.address, request.count) == (16, 1020, 2)


async def test_all_units_share_one_connection_with_one_request_at_a_time() -> None:
    under_way = most = 0

    async def slowly(request: Request) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        obey(request)

    async with RawServer(slowly) as server, ConnectionPool() as pool:
        links = [pool.get("127.0.0.1", server.port, timeout_s=number + 1) for number in range(4)]
        reads = [link.read(unit, unit, 1) for link in links for unit in range(1, 6)]
        answers = await asyncio.gather(*reads)
        assert [words[0] for words in answers] == [1, 2, 3, 4, 5] * 4
        assert server.connections == 1
        assert most == 1
        tids = Counter(request.tid for request in server.requests)
        assert max(tids.values()) == 1


async def test_the_pool_knows_a_connection_by_host_and_port(server: RawServer) -> None:
    async with ConnectionPool() as pool:
        one = pool.get("LocalHost", server.port).connection
        assert pool.get("localhost", server.port, timeout_s=1).connection is one
        assert pool.get("localhost", server.port + 1).connection is not one
        await pool.discard("localhost", server.port)
        assert pool.get("localhost", server.port).connection is not one
        with pytest.raises(DeviceUnreachableError, match="closed by us"):
            await one.read(1, 0, 1)


async def test_transaction_ids_go_round(server: RawServer, connection: ModbusConnection) -> None:
    connection._transaction = 0xFFFE
    for _ in range(3):
        await connection.read(1, 0, 1)
    assert [request.tid for request in server.requests] == [0xFFFF, 1, 2]


# --- late and foreign replies


async def test_a_late_reply_is_not_taken_for_the_next_one(server: RawServer, connection: ModbusConnection) -> None:
    """The first reply comes just before that of the second request, which asks for as many registers."""
    held: list[Request] = []

    def answer(request: Request) -> None:
        if not held:
            held.append(request)
        else:
            request.send(held[0].frame() + request.frame())

    server.answer = answer
    with pytest.raises(DeviceTimeoutError, match=r"unit 1 at 127\.0\.0\.1:\d+ did not answer within 0\.05"):
        await connection.read(1, 100, 2, timeout_s=0.05, retries=0)
    assert list(await connection.read(1, 200, 2, timeout_s=LONG_S)) == [200, 201]
    assert connection.counters().late_replies == 1
    assert server.connections == 1


async def test_a_reply_that_lay_there_while_this_process_stood_still_is_too_old(
    server: RawServer, connection: ModbusConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device answers at once, then this process gets no time for a minute: what it said is a minute old."""
    loop = asyncio.get_running_loop()
    real = loop.time

    def answer_and_stall(request: Request) -> None:
        obey(request)
        monkeypatch.setattr(loop, "time", lambda: real() + 60)

    server.answer = answer_and_stall
    with pytest.raises(DeviceTimeoutError, match="too old"):
        await connection.read(1, 100, 2, timeout_s=5, retries=0)
    assert connection.counters().timeouts == 1
    assert list(await connection.read(1, 200, 2, timeout_s=5)) == [200, 201]
    assert server.connections == 1


@pytest.mark.parametrize("tid", [0, 0xABCD])
async def test_a_reply_to_nothing_of_ours_is_passed_over(
    server: RawServer, connection: ModbusConnection, tid: int
) -> None:
    server.answer = lambda request: request.send(request.frame(tid=tid))
    with pytest.raises(DeviceTimeoutError):
        await connection.read(1, 100, 2, timeout_s=0.05, retries=0)
    server.answer = lambda request: request.send(request.frame(tid=tid) + request.frame())
    assert list(await connection.read(1, 200, 2, timeout_s=LONG_S)) == [200, 201]


async def test_a_cancelled_request_leaves_nothing_behind(server: RawServer, connection: ModbusConnection) -> None:
    held: list[Request] = []
    arrived = asyncio.Event()

    def hold(request: Request) -> None:
        held.append(request)
        arrived.set()

    server.answer = hold
    first = asyncio.create_task(connection.read(1, 100, 1, timeout_s=LONG_S))
    await arrived.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    server.answer = lambda request: request.send(held[0].frame() + request.frame())
    assert list(await connection.read(1, 200, 1, timeout_s=LONG_S)) == [200]


async def test_a_caller_who_is_less_patient_does_not_hide_a_dead_connection(
    server: RawServer, connection: ModbusConnection
) -> None:
    server.answer = lambda request: obey(request) if request.connection else None
    connection.unit(1).answered(0.001)  # so that half a second is patience enough
    for _ in range(2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.6):
                await connection.read(1, 0, 1, timeout_s=LONG_S)
    assert list(await connection.read(1, 5, 1, timeout_s=LONG_S)) == [5]
    assert server.connections == 2


# --- replies that are none


def with_garbage(request: Request) -> bytes:
    return b"HTTP/1.1 400 Bad Request\r\n\r\n"


def with_an_endless_length(request: Request) -> bytes:
    return request.frame()[:4] + b"\xff\xff" + request.frame()[6:]


def of_another_unit(request: Request) -> bytes:
    return request.frame(unit=9)


def of_another_function(request: Request) -> bytes:
    return request.frame(function=4)


def with_too_few_registers(request: Request) -> bytes:
    return request.packed(registers(3, [1]))


def with_too_many_registers(request: Request) -> bytes:
    return request.packed(registers(3, [1, 2, 3]))


def with_a_wrong_byte_count(request: Request) -> bytes:
    return request.packed(b"\x03\x06\x00\x01\x00\x02")


def without_registers(request: Request) -> bytes:
    return request.packed(b"\x03\x00")


NO_REPLIES = [
    with_garbage,
    with_an_endless_length,
    of_another_unit,
    of_another_function,
    with_too_few_registers,
    with_too_many_registers,
    with_a_wrong_byte_count,
    without_registers,
]


@pytest.mark.parametrize("wrong", NO_REPLIES)
async def test_a_reply_that_is_none_is_refused_at_once_and_asked_for_anew(
    server: RawServer, connection: ModbusConnection, wrong: Callable[[Request], bytes]
) -> None:
    server.answer = lambda request: request.send(wrong(request))
    with pytest.raises(BadReplyError):
        await connection.read(1, 100, 2, timeout_s=LONG_S, retries=0)
    assert not connection.connected

    server.answer = lambda request: request.send(wrong(request) if request.connection < 3 else request.frame())
    assert list(await connection.read(1, 100, 2, timeout_s=LONG_S, retries=3)) == [100, 101]
    assert connection.counters().reconnects == server.connections - 1 == 3


@pytest.mark.parametrize("echo", [(1021, 2), (1020, 1)])
async def test_a_write_must_be_echoed_exactly(
    server: RawServer, connection: ModbusConnection, echo: tuple[int, int]
) -> None:
    message = b"\x10" + echo[0].to_bytes(2, "big") + echo[1].to_bytes(2, "big")
    server.answer = lambda request: request.send(request.packed(message))
    with pytest.raises(BadReplyError, match=r"wrote 2 registers at 1020, the device acknowledged \("):
        await connection.write(1, 1020, [0, 1], timeout_s=LONG_S, retries=0)


async def test_a_write_echoed_in_part_is_refused(server: RawServer, connection: ModbusConnection) -> None:
    server.answer = lambda request: request.send(request.packed(b"\x10\x03"))
    with pytest.raises(BadReplyError, match="cannot be read"):
        await connection.write(1, 1020, [0, 1], timeout_s=LONG_S, retries=0)


async def test_a_reply_in_pieces_is_put_together(server: RawServer, connection: ModbusConnection) -> None:
    async def drip(request: Request) -> None:
        for byte in request.frame():
            request.send(bytes([byte]))
            await request.writer.drain()
            await asyncio.sleep(0)

    server.answer = drip
    assert list(await connection.read(1, 300, 4, timeout_s=LONG_S)) == [300, 301, 302, 303]


async def test_after_half_a_reply_the_connection_is_made_anew(server: RawServer, connection: ModbusConnection) -> None:
    server.answer = lambda request: request.send(request.frame()[: 9 if request.connection == 0 else None])
    with pytest.raises(DeviceTimeoutError):
        await connection.read(1, 100, 2, timeout_s=0.05, retries=0)
    assert list(await connection.read(1, 200, 2, timeout_s=LONG_S)) == [200, 201]
    assert server.connections == 2


@pytest.mark.parametrize("sent", [0, 3, 9])
async def test_a_connection_closed_mid_frame_fails_at_once(
    server: RawServer, connection: ModbusConnection, sent: int
) -> None:
    def cut(request: Request) -> None:
        request.send(request.frame()[:sent])
        request.hang_up()

    server.answer = cut
    with pytest.raises(DeviceUnreachableError, match="connection was lost"):
        await connection.read(1, 100, 2, timeout_s=LONG_S, retries=0)
    server.answer = lambda request: obey(request) if request.connection >= 3 else cut(request)
    assert list(await connection.read(1, 100, 2, timeout_s=LONG_S, retries=3)) == [100, 101]


# --- exceptions


@pytest.mark.parametrize("code", [1, 2, 3, 7])
async def test_a_refusal_is_final(server: RawServer, connection: ModbusConnection, code: int) -> None:
    server.answer = lambda request: request.send(request.fault(code))
    with pytest.raises(DeviceFaultError, match=f"unit 4, function 3 at 100: .* exception {code} ") as caught:
        await connection.read(4, 100, 2, timeout_s=LONG_S, retries=3)
    assert caught.value.code == code
    assert len(server.requests) == 1
    assert connection.unit(4).counters.faults == 1


@pytest.mark.parametrize("code", [4, 5, 6, 8, 10, 11])
async def test_a_passing_fault_is_tried_again(server: RawServer, connection: ModbusConnection, code: int) -> None:
    server.answer = lambda request: request.send(request.fault(code) if len(server.requests) < 3 else request.frame())
    assert list(await connection.read(4, 100, 2, timeout_s=LONG_S, retries=3)) == [100, 101]
    assert len(server.requests) == 3
    assert connection.counters().retries == 2


async def test_retries_are_as_many_as_were_asked_for(server: RawServer, connection: ModbusConnection) -> None:
    server.answer = lambda request: request.send(request.fault(6))
    with pytest.raises(DeviceFaultError):
        await connection.read(1, 0, 1, timeout_s=LONG_S, retries=2)
    assert len(server.requests) == 3


# --- connections


async def test_it_connects_again_after_the_server_was_restarted(
    server: RawServer, connection: ModbusConnection
) -> None:
    await connection.read(1, 0, 1)
    await server.stop()
    with pytest.raises(DeviceUnreachableError):
        await connection.read(1, 0, 1, timeout_s=0.2, retries=2)
    async with RawServer(port=server.port) as again:
        assert list(await connection.read(1, 8, 1, timeout_s=LONG_S, retries=5)) == [8]
        assert again.connections == 1


async def test_it_never_gives_up_and_does_not_hammer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_FIRST_RECONNECT_S", 20.0)
    with socket.socket() as taken:  # bound and not listening: connecting is refused
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        connection = ModbusConnection("127.0.0.1", port)
        with pytest.raises(DeviceUnreachableError, match=rf"127\.0\.0\.1:{port}: cannot connect: "):
            await connection.read(1, 0, 1, timeout_s=1.0, retries=3)  # the pause is longer than a request may take
        with pytest.raises(DeviceUnreachableError, match=r"no connection; it is tried again in \d\.\d s"):
            await connection.read(1, 0, 1, timeout_s=1.0, retries=3)
        assert connection.counters().failed_connects == 1
        assert connection.counters().refused == 1

        monkeypatch.setattr(client_module, "_LAST_RECONNECT_S", 0.02)
        connection._connect_at = 0.0  # as if the pause were over
        with pytest.raises(DeviceUnreachableError):
            await connection.read(1, 0, 1, retries=5)
        assert connection.counters().failed_connects == 7
        assert connection.counters().reconnects == 0
    async with RawServer(port=port):
        assert list(await connection.read(1, 3, 1)) == [3]
    await connection.aclose()


async def test_a_host_without_a_name_is_said_so() -> None:
    connection = ModbusConnection("no-such-host.invalid", 502)
    with pytest.raises(DeviceUnreachableError, match=r"no-such-host\.invalid:502: cannot connect: "):
        await connection.read(1, 0, 1, retries=0)


async def test_a_connection_on_which_nothing_comes_is_made_anew(
    server: RawServer, connection: ModbusConnection
) -> None:
    """As after a router forgot it: writes go out, nothing ever comes back, nobody is told."""
    server.answer = lambda request: obey(request) if request.connection != 1 else None
    await connection.read(1, 0, 1)
    connection._drop(connection._wire, "for the test")  # type: ignore[arg-type]
    assert list(await connection.read(1, 6, 1, timeout_s=0.2, retries=4)) == [6]
    assert server.connections == 3
    assert connection.unit(1).counters.timeouts == 2


async def test_closing_ends_a_request_under_way(server: RawServer, connection: ModbusConnection) -> None:
    arrived = asyncio.Event()
    server.answer = lambda request: arrived.set()
    read = asyncio.create_task(connection.read(1, 0, 1, timeout_s=LONG_S))
    await arrived.wait()
    await connection.aclose()
    with pytest.raises(DeviceUnreachableError):
        await read
    assert not connection.connected


# --- units that are dead


def silent_unit_2(request: Request) -> None:
    if request.unit != 2:
        obey(request)


async def test_a_dead_unit_does_not_slow_the_others(server: RawServer, connection: ModbusConnection) -> None:
    """Unit 2 never answers and may be waited for 30 s; unit 1 is polled all the while."""
    server.answer = silent_unit_2
    await connection.read(1, 0, 1)
    dead = asyncio.create_task(connection.read(2, 0, 1, timeout_s=LONG_S, retries=2))
    waits: list[float] = []
    while not dead.done():
        started = time.perf_counter()
        await connection.read(1, 0, 1)
        waits.append(time.perf_counter() - started)
        await asyncio.sleep(0)
    with pytest.raises(DeviceTimeoutError):
        await dead
    assert max(waits) < 5.0  # of the 30 s that unit 2 was given: half a second, then one, then two
    assert sum(request.unit == 2 for request in server.requests) == 3

    started = time.perf_counter()
    for _ in range(50):
        with pytest.raises(DeviceTimeoutError, match=r"unit 2 at .* does not answer; it is tried again in"):
            await connection.read(2, 0, 1, timeout_s=LONG_S)
        await connection.read(1, 0, 1)
    assert time.perf_counter() - started < 5.0  # half a second for each would be 25
    assert connection.unit(2).counters.refused == 50
    assert server.connections == 1


async def test_a_slow_unit_is_given_its_time_once_a_late_reply_said_so(
    server: RawServer, connection: ModbusConnection
) -> None:
    """Unit 2 answers after more than half a second, which is what an unknown unit gets while others wait."""
    slow = asyncio.Event()
    held: list[Request] = []

    def answer(request: Request) -> None:
        if request.unit == 2 and not slow.is_set():
            held.append(request)
        else:
            request.send(b"".join(one.frame() for one in held) + request.frame())
            held.clear()

    server.answer = answer
    reads = await asyncio.gather(
        connection.read(2, 0, 1, timeout_s=LONG_S, retries=0), connection.read(1, 7, 1), return_exceptions=True
    )
    assert isinstance(reads[0], DeviceTimeoutError)
    assert reads[1] == (7,)
    state = connection.unit(2)
    assert connection.counters().late_replies == 1
    assert state.silent_tries == 0
    assert state.slowest_s is not None
    assert state.slowest_s >= 0.5
    assert state.patience_s(LONG_S) >= 4.0


async def test_requests_to_one_unit_do_not_cut_each_other_short(
    server: RawServer, connection: ModbusConnection
) -> None:
    async def after_a_while(request: Request) -> None:
        await asyncio.sleep(0.7)
        obey(request)

    server.answer = after_a_while
    reads = [connection.read(3, address, 1, timeout_s=LONG_S, retries=0) for address in (1, 2)]
    assert await asyncio.gather(*reads) == [(1,), (2,)]


async def test_a_dead_unit_that_is_back_is_taken_up_again(server: RawServer, connection: ModbusConnection) -> None:
    server.answer = silent_unit_2
    with pytest.raises(DeviceTimeoutError):
        await connection.read(2, 0, 1, timeout_s=0.02, retries=2)
    state = connection.unit(2)
    assert state.dead
    server.answer = obey
    state.probe_at = 0.0  # as if the pause were over
    assert list(await connection.read(2, 4, 1)) == [4]
    assert not state.dead
    assert state.failed_probes == 0


async def test_a_dead_unit_is_probed_with_a_single_try(server: RawServer, connection: ModbusConnection) -> None:
    server.answer = silent_unit_2
    with pytest.raises(DeviceTimeoutError):
        await connection.read(2, 0, 1, timeout_s=0.02, retries=2)
    asked = len(server.requests)
    connection.unit(2).probe_at = 0.0
    with pytest.raises(DeviceTimeoutError):
        await connection.read(2, 0, 1, timeout_s=0.02, retries=5)
    assert len(server.requests) == asked + 1


async def test_a_slow_unit_is_waited_for_when_nobody_else_waits(
    server: RawServer, connection: ModbusConnection
) -> None:
    async def after_a_while(request: Request) -> None:
        await asyncio.sleep(0.7)  # longer than the half second that an unknown unit is given while others wait
        obey(request)

    server.answer = after_a_while
    assert list(await connection.read(3, 1, 1, timeout_s=LONG_S, retries=0)) == [1]


async def test_a_gateway_that_says_a_unit_is_dead_is_believed(server: RawServer, connection: ModbusConnection) -> None:
    server.answer = lambda request: request.send(request.fault(11) if request.unit == 2 else request.frame())
    with pytest.raises(DeviceFaultError, match="device behind the gateway does not answer"):
        await connection.read(2, 0, 1, timeout_s=LONG_S, retries=2)
    assert connection.unit(2).dead
    with pytest.raises(DeviceTimeoutError, match="tried again in"):
        await connection.read(2, 0, 1, timeout_s=LONG_S)
    assert list(await connection.read(1, 4, 1)) == [4]


def test_it_works_on_uvloop_whose_transports_are_none_of_asyncios_classes() -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not to be had on this platform")

    async def read() -> list[int]:
        async with RawServer() as server, ConnectionPool() as pool:
            return list(await pool.get("127.0.0.1", server.port).read(1, 6, 1))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(read()) == [6]
