"""The simulator over real Modbus TCP, asked by pymodbus's own client and by bare sockets."""

import asyncio
import json
import statistics
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusIOException
from pymodbus.pdu import ModbusPDU
from pymodbus.pdu.mei_message import ReadDeviceInformationResponse

from flux.devices.codec import encode
from flux.devices.simulator import (
    DeviceConfig,
    LoadConfig,
    Reply,
    SimClock,
    SimConfig,
    SimulatedSite,
    SimulatorServer,
    SolarConfig,
    StateFile,
    demo_site,
    read_reply_log,
)
from flux.devices.simulator.replylog import ReplyLog
from flux.errors import ConflictError, InputError, NotFoundError
from flux.model import DeviceType, MeterType

START = datetime(2026, 1, 15, 12, tzinfo=UTC)
GRID, BESS = "WLCE-GRID-METER", "WLCE-BESS-01"


def still_clock() -> SimClock:
    return SimClock(START, speed=0)


def steady(load_kw: float = 36) -> SimConfig:
    update = {"load": LoadConfig(constant_kw=load_kw), "solar": SolarConfig(constant_kw=0)}
    return demo_site(port=0).model_copy(update=update)


@asynccontextmanager
async def serving(
    clock: SimClock | None = None, state: Path | None = None, faults_file: Path | None = None
) -> AsyncIterator[tuple[SimulatorServer, SimClock, list[Reply]]]:
    """A server whose time stands still unless it is moved, and the replies that it gave."""
    clock = clock or still_clock()
    replies: list[Reply] = []
    server = SimulatorServer(
        SimulatedSite(steady(), clock()),
        clock,
        state=StateFile(state) if state else None,
        faults_file=faults_file,
        on_reply=replies.append,
    )
    async with server:
        yield server, clock, replies


@asynccontextmanager
async def client(server: SimulatorServer, device: str, timeout_s: float = 0.3) -> AsyncIterator[AsyncModbusTcpClient]:
    port = server.site.device(device).port
    modbus = AsyncModbusTcpClient("127.0.0.1", port=port, timeout=timeout_s, retries=0, reconnect_delay=0)
    assert await modbus.connect()
    try:
        yield modbus
    finally:
        modbus.close()


async def imported_kwh(modbus: AsyncModbusTcpClient) -> float:
    reply = await modbus.read_holding_registers(16456, count=2)
    assert not reply.isError()
    return (reply.registers[0] * 65536 + reply.registers[1]) / 10


async def test_a_read_over_modbus_says_what_the_site_says() -> None:
    async with serving() as (server, clock, _), client(server, GRID) as modbus:
        assert await imported_kwh(modbus) == 0
        clock.advance(timedelta(minutes=30))
        server.tick()
        assert await imported_kwh(modbus) == 18
        reply = await modbus.read_holding_registers(12322, count=2)
        (watts,) = struct.unpack(">f", struct.pack(">2H", *reply.registers))
        assert watts * 100 * 12 / 1000 == pytest.approx(36)


async def test_commands_over_modbus_move_the_battery() -> None:
    async with serving() as (server, clock, _), client(server, BESS) as modbus:
        template = server.site.device(BESS).template
        control = template.control
        assert control is not None
        for step, number in control.constants().items():
            register = template.register(control.registers[step])
            assert not (await modbus.write_registers(register.address, encode(register, number))).isError()
        assert not (await modbus.write_register(1022, 0xAA55)).isError()
        power = template.register("command_power")
        assert not (await modbus.write_registers(power.address, encode(power, -40))).isError()
        clock.advance(timedelta(seconds=10))
        server.tick()
        assert server.site.battery(BESS).power_kw == -40
        reply = await modbus.read_holding_registers(201, count=2)
        assert reply.registers == encode(template.register("target_power"), -40)
        clock.advance(timedelta(seconds=60))
        server.tick()
        assert server.site.battery(BESS).power_kw == 0


async def test_registers_show_the_published_state_only() -> None:
    async with serving() as (server, clock, _), client(server, GRID) as modbus:
        clock.advance(timedelta(hours=1))
        server.site.step(clock())
        assert await imported_kwh(modbus) == 0
        server.tick()
        assert await imported_kwh(modbus) == 36


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        (lambda m: m.read_holding_registers(1, count=2), 2),
        (lambda m: m.read_input_registers(12288, count=2), 1),
        (lambda m: m.write_register(12288, 5), 2),
        (lambda m: m.read_coils(1, count=2), 1),
        (lambda m: m.read_holding_registers(12288, count=2, device_id=9), 11),
        (lambda m: m.read_device_information(read_code=4, object_id=99), 2),
    ],
    ids=["address", "input table", "read-only", "coils", "unit", "object"],
)
async def test_what_the_device_refuses(ask: Callable[[AsyncModbusTcpClient], Awaitable[ModbusPDU]], code: int) -> None:
    async with serving() as (server, _, _), client(server, GRID) as modbus:
        reply = await ask(modbus)
        assert reply.isError()
        assert reply.exception_code == code


async def test_device_identification() -> None:
    async with serving() as (server, _, _), client(server, GRID) as modbus:
        basic, regular = [await modbus.read_device_information(read_code=code) for code in (1, 2)]
        assert isinstance(basic, ReadDeviceInformationResponse)
        assert basic.information == {0: b"AccuEnergy", 1: b"Acuvim II", 2: b"sim-1.0"}
        assert isinstance(regular, ReadDeviceInformationResponse)
        assert regular.information[5] == GRID.encode()


async def test_several_units_on_one_port() -> None:
    free = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port = free.sockets[0].getsockname()[1]
    free.close()
    await free.wait_closed()
    devices = tuple(
        DeviceConfig(
            name=f"M{unit}", type=DeviceType.METER, template="acuvim2_standard", port=port, unit=unit, meter_type=kind
        )
        for unit, kind in ((1, MeterType.GRID), (2, MeterType.GENERATION))
    )
    config = SimConfig(site="S", devices=devices, load=LoadConfig(constant_kw=10), solar=SolarConfig(constant_kw=4))
    clock = still_clock()
    async with SimulatorServer(SimulatedSite(config, clock()), clock) as server, client(server, "M1") as modbus:
        clock.advance(timedelta(hours=10))
        server.tick()
        one = await modbus.read_holding_registers(16456, count=4, device_id=1)
        two = await modbus.read_holding_registers(16456, count=4, device_id=2)
        assert (one.registers, two.registers) == ([0, 600, 0, 0], [0, 0, 0, 400])


async def test_drop_gives_no_answer_and_no_record() -> None:
    async with serving() as (server, _, replies), client(server, GRID, timeout_s=0.1) as modbus:
        server.add_fault(f"{GRID}:drop")
        with pytest.raises(ModbusIOException):
            await modbus.read_holding_registers(16456, count=2)
        assert replies == []
    async with serving() as (server, _, replies), client(server, GRID) as modbus:
        server.add_fault(f"{BESS}:drop")
        assert await imported_kwh(modbus) == 0
        assert len(replies) == 1


async def test_a_dropped_write_is_not_carried_out() -> None:
    async with serving() as (server, _, _), client(server, BESS, timeout_s=0.1) as modbus:
        server.add_fault("*:drop")
        with pytest.raises(ModbusIOException):
            await modbus.write_register(1000, 1)
        assert not server.site.battery(BESS).following


async def test_delay_answers_late_and_in_time_for_a_patient_client() -> None:
    async with serving() as (server, _, replies), client(server, GRID, timeout_s=2) as modbus:
        server.add_fault(f"{GRID}:delay:200ms")
        began = asyncio.get_running_loop().time()
        assert await imported_kwh(modbus) == 0
        assert asyncio.get_running_loop().time() - began >= 0.2
        assert len(replies) == 1


async def test_a_delayed_reply_to_a_client_that_left_is_not_on_record() -> None:
    async with serving() as (server, _, replies):
        server.add_fault(f"{GRID}:delay:100ms")
        async with client(server, GRID, timeout_s=0.02) as modbus:
            with pytest.raises(ModbusIOException):
                await modbus.read_holding_registers(16456, count=2)
        server.add_fault(f"{BESS}:delay:200ms")
        async with client(server, BESS, timeout_s=2) as modbus:
            await modbus.read_holding_registers(200, count=1)
        assert [reply.device for reply in replies] == [BESS]


async def test_garbage_is_no_modbus_and_not_on_record() -> None:
    async with serving() as (server, _, replies):
        server.add_fault(f"{GRID}:garbage")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.site.device(GRID).port)
        writer.write(bytes.fromhex("000100000006010340480002"))
        garbage = await asyncio.wait_for(reader.read(100), 2)
        assert len(garbage) == 24
        assert garbage[:4] != bytes.fromhex("00010000")
        assert replies == []
        writer.close()
        await writer.wait_closed()


async def test_exception_codes_on_request() -> None:
    async with serving() as (server, clock, replies), client(server, GRID) as modbus:
        server.add_fault(f"{GRID}:exception:6,for=10s")
        reply = await modbus.read_holding_registers(16456, count=2)
        assert reply.isError()
        assert (replies[0].exception, replies[0].address, replies[0].words) == (6, 16456, ())
        clock.advance(timedelta(seconds=10))
        assert await imported_kwh(modbus) == 0


async def test_refused_writes_leave_reads_alone() -> None:
    async with serving() as (server, _, _), client(server, BESS) as modbus:
        server.add_fault(f"{BESS}:refuse-writes")
        assert (await modbus.write_register(1000, 1)).isError()
        assert not server.site.battery(BESS).following
        assert not (await modbus.read_holding_registers(200, count=1)).isError()
        server.clear_faults()
        assert not (await modbus.write_register(1000, 1)).isError()
        assert server.site.battery(BESS).following


async def test_the_register_log_has_what_the_registers_took_and_nothing_else() -> None:
    async with serving() as (server, clock, _), client(server, BESS) as modbus:
        await modbus.write_register(1000, 1)
        server.add_fault(f"{BESS}:refuse-writes,for=5s")
        await modbus.write_register(1000, 0)
        clock.advance(timedelta(seconds=5))
        server.tick()
        await modbus.write_registers(1020, encode(server.site.device(BESS).template.register("command_power"), -12.5))
        log = [(write.time - START, write.register, write.value) for write in server.site.device(BESS).register_log]
        assert log == [
            (timedelta(), "command_mode", 1),
            (timedelta(seconds=5), "command_power", -12.5),
        ]


async def test_a_tripped_battery_shows_its_target_and_rests() -> None:
    async with serving() as (server, clock, _), client(server, BESS) as modbus:
        await modbus.write_register(1000, 1)
        await modbus.write_registers(1020, encode(server.site.device(BESS).template.register("command_power"), 30.0))
        server.add_fault(f"{BESS}:tripped,for=10s")
        server.tick()
        clock.advance(timedelta(seconds=5))
        server.tick()
        assert (await modbus.read_holding_registers(201, count=2)).registers == [0, 30_000]
        assert server.site.battery(BESS).power_kw == 0
        clock.advance(timedelta(seconds=10))
        server.tick()
        clock.advance(timedelta(seconds=5))
        server.tick()
        assert server.site.battery(BESS).power_kw == 30


async def test_noise_is_in_the_powers_and_not_in_the_counters() -> None:
    async with serving() as (server, clock, _), client(server, GRID) as modbus:
        server.add_fault(f"{GRID}:noise:0.5")
        seen = []
        for _ in range(200):
            clock.advance(timedelta(seconds=18))
            server.tick()
            seen.append(server.site.device(GRID).shown.power_kw - 36)
        assert 0.4 < statistics.stdev(seen) < 0.6
        assert abs(statistics.mean(seen)) < 0.15
        assert await imported_kwh(modbus) == 36
        server.clear_faults()
        server.tick()
        assert server.site.device(GRID).shown.power_kw == 36


async def test_a_counter_reset_starts_from_zero() -> None:
    async with serving() as (server, clock, _), client(server, GRID) as modbus:
        clock.advance(timedelta(hours=1))
        server.tick()
        assert await imported_kwh(modbus) == 36
        server.add_fault(f"{GRID}:reset")
        server.tick()
        assert await imported_kwh(modbus) == 0
        clock.advance(timedelta(hours=1))
        server.tick()
        assert await imported_kwh(modbus) == 36


async def test_lag_and_blocks_hold_while_the_fault_does() -> None:
    async with serving() as (server, clock, _), client(server, GRID) as modbus:
        server.add_fault(f"{GRID}:lag:30m,for=2h")
        server.add_fault(f"{BESS}:blocks:3,for=2h")
        for _ in range(7):
            server.tick()
            clock.advance(timedelta(minutes=10))
        assert await imported_kwh(modbus) == 18
        assert server.site.battery(BESS).available_blocks == 3
        clock.advance(timedelta(hours=2))
        server.tick()
        assert await imported_kwh(modbus) == pytest.approx(36 * (70 + 120) / 60)
        assert server.site.battery(BESS).available_blocks == 10


async def test_a_restart_closes_connections_and_loses_commands_until_it_is_back() -> None:
    clock = SimClock(START)
    async with serving(clock) as (server, _, _), client(server, BESS) as modbus:
        assert not (await modbus.write_register(1000, 1)).isError()
        server.add_fault(f"{BESS}:restart:1h")
        server.tick()
        assert not server.site.battery(BESS).following
        with pytest.raises(ModbusIOException):
            await modbus.read_holding_registers(200, count=1)
        port = server.site.device(BESS).port
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await asyncio.open_connection("127.0.0.1", port)
        async with client(server, GRID) as other:
            assert await imported_kwh(other) == 0
        clock.advance(timedelta(hours=1))
        async with asyncio.timeout(5):
            while not await answers(port):
                await asyncio.sleep(0.02)
        async with client(server, BESS) as again:
            assert (await again.read_holding_registers(1000, count=1)).registers == [0]


async def answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def test_a_fault_for_a_device_that_is_not_there_is_refused() -> None:
    async with serving() as (server, _, _):
        with pytest.raises(NotFoundError, match="no simulated device 'X'"):
            server.add_fault("X:drop")


async def test_a_faults_file_is_followed_while_it_runs(tmp_path: Path) -> None:
    file = tmp_path / "faults.json"
    async with serving(faults_file=file) as (server, _, _), client(server, GRID) as modbus:
        assert await imported_kwh(modbus) == 0
        file.write_text(json.dumps([f"{GRID}:exception:6"]))
        server.tick()
        assert (await modbus.read_holding_registers(16456, count=2)).isError()
        file.write_text("not json")
        server.tick()
        assert len(server.faults.faults) == 1, "a file that is wrong changes nothing"
        file.unlink()
        server.tick()
        assert await imported_kwh(modbus) == 0


async def test_every_reply_is_on_record_before_it_is_sent(tmp_path: Path) -> None:
    clock = still_clock()
    with ReplyLog(tmp_path / "replies.jsonl") as log:
        server = SimulatorServer(SimulatedSite(steady(), clock()), clock, on_reply=log)
        async with server, client(server, BESS) as modbus:
            for number in range(20):
                await modbus.write_register(1023, number)
                reply = await modbus.read_holding_registers(1023, count=1)
                last = read_reply_log(tmp_path / "replies.jsonl")[-1]
                assert last == Reply(clock(), BESS, 1, 3, 1023, 1, reply.registers)
            await modbus.read_holding_registers(1, count=1)
    log_rows = read_reply_log(tmp_path / "replies.jsonl")
    assert len(log_rows) == 41
    assert log_rows[0] == Reply(clock(), BESS, 1, 6, 1023, 1, [0])
    assert log_rows[-1] == Reply(clock(), BESS, 1, 3, 1, 1, exception=2)


async def test_frames_that_come_in_pieces_and_together() -> None:
    request = bytes.fromhex("000700000006010340480002")
    async with serving() as (server, _, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.site.device(GRID).port)
        writer.write(request[:5])
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(request[5:] + request + request[:9])
        replies = await asyncio.wait_for(reader.readexactly(26), 2)
        assert replies == bytes.fromhex("00070000000701030400000000") * 2
        writer.write(request[9:])
        assert await asyncio.wait_for(reader.readexactly(13), 2) == replies[:13]
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "junk",
    [b"GET / HTTP/1.1\r\n\r\n", bytes.fromhex("000100000001010340480002"), bytes.fromhex("0001000000ff0103")],
    ids=["http", "too short", "too long"],
)
async def test_what_is_not_modbus_ends_the_connection(junk: bytes) -> None:
    async with serving() as (server, _, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.site.device(GRID).port)
        writer.write(junk)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asyncio.wait_for(reader.readexactly(1), 2)
        writer.close()


@pytest.mark.parametrize("message", ["0103", "0110", "01103fe80002", "012b0e", "0103404800020000", "01064048"])
async def test_messages_cut_short_are_refused_not_fatal(message: str) -> None:
    body = bytes.fromhex(message)
    async with serving() as (server, _, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.site.device(GRID).port)
        writer.write(struct.pack(">HHH", 1, 0, len(body)) + body)
        reply = await asyncio.wait_for(reader.readexactly(9), 2)
        assert reply[7] == body[1] | 0x80
        writer.close()
        await writer.wait_closed()


async def test_a_port_in_use_is_one_clear_line_and_nothing_is_left_behind(tmp_path: Path) -> None:
    busy = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port = busy.sockets[0].getsockname()[1]
    config = steady()
    last = config.devices[-1].model_copy(update={"port": port})
    config = config.model_copy(update={"devices": (*config.devices[:-1], last)})
    clock = still_clock()
    state = StateFile(tmp_path / "s.json")
    server = SimulatorServer(SimulatedSite(config, clock()), clock, state=state)
    with pytest.raises(InputError, match=rf"127.0.0.1:{port} \(WLCE-BESS-METER\): address already in use"):
        await server.start()
    assert not state.path.exists()
    for device in server.devices:
        if device.port not in (0, port):
            assert not await answers(device.port)
    busy.close()
    await busy.wait_closed()


async def test_state_goes_on_after_a_stop(tmp_path: Path) -> None:
    clock = still_clock()
    async with serving(clock, tmp_path / "s.json") as (server, _, _):
        clock.advance(timedelta(hours=1))
        server.tick()
        clock.advance(timedelta(hours=1))
    async with serving(clock, tmp_path / "s.json") as (server, _, _), client(server, GRID) as modbus:
        assert await imported_kwh(modbus) == 72


async def test_a_state_that_cannot_be_saved_is_not_shown(tmp_path: Path) -> None:
    clock = still_clock()
    async with serving(clock, tmp_path / "s.json") as (server, _, _), client(server, GRID) as modbus:
        (tmp_path / "s.json.new").mkdir()
        clock.advance(timedelta(hours=1))
        server.tick()
        assert await imported_kwh(modbus) == 0
        (tmp_path / "s.json.new").rmdir()
        server.tick()
        assert await imported_kwh(modbus) == 36


async def test_one_state_file_serves_one_simulator(tmp_path: Path) -> None:
    async with serving(state=tmp_path / "s.json"):
        with pytest.raises(ConflictError, match=r"s\.json is in use by another simulator"):
            async with serving(state=tmp_path / "s.json"):
                pass


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "cannot be read"), ("[]", "holds no state"), ("{}", "site None"), ('{"version":1,"site":"WLCE"}', "used")],
)
async def test_a_state_file_that_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(InputError, match=rf"s\.json.*{message}.*move it away"):
        async with serving(state=tmp_path / "s.json"):
            pass
    assert (tmp_path / "s.json").read_text() == text
