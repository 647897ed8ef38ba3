"""Polls, readings and commands of one device, through a transport in memory."""

import asyncio
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.devices.raw_server import RawServer

from flux.devices.client import ConnectionPool
from flux.devices.driver import DeviceDriver, NotControllableError, driver_for
from flux.devices.registers import Function
from flux.devices.template import DeviceTemplate, builtin_template, parse_template
from flux.devices.transport import DeviceFaultError, DeviceTimeoutError
from flux.errors import DeviceError, InputError, NotFoundError, RefusedError
from flux.model import BessReading, Device, DeviceType, MeterReading, parse_metadata

NOON = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def step(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Memory:
    """The registers of a device. ``missing`` addresses are refused; ``failing`` reads and writes get no answer."""

    def __init__(self, words: dict[int, int] | None = None) -> None:
        self.words = words or {}
        self.missing: set[int] = set()
        self.failing: set[int] = set()
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, list[int]]] = []
        self.functions: set[Function] = set()
        self.units: set[int] = set()

    def put(self, address: int, layout: str, *values: Any) -> None:
        data = struct.pack(f">{layout}", *values)
        for offset, word in enumerate(struct.unpack(f">{len(data) // 2}H", data)):
            self.words[address + offset] = word

    async def read(self, unit: int, address: int, count: int, *, function: Function = Function.HOLDING) -> list[int]:
        self.reads.append((address, count))
        self.functions.add(function)
        self.units.add(unit)
        asked = set(range(address, address + count))
        if asked & self.failing:
            raise DeviceTimeoutError("no answer")
        if asked & self.missing:
            raise DeviceFaultError(2, f"read of {address}")
        return [self.words.get(one, 0) for one in sorted(asked)]

    async def write(self, unit: int, address: int, words: Sequence[int]) -> None:
        if address in self.failing:
            raise DeviceTimeoutError("no answer")
        self.writes.append((address, list(words)))


def device(type: DeviceType, **metadata: Any) -> Device:
    return Device(
        id=UUID(int=7),
        name="WLCE-BESS-01" if type is DeviceType.BESS else "WLCE-GRID-METER",
        type=type,
        site="WLCE",
        metadata=parse_metadata(type, metadata),
        created_at=NOON,
        updated_at=NOON,
    )


def acuvim(memory: Memory, **metadata: Any) -> DeviceDriver:
    return DeviceDriver(device(DeviceType.METER, **metadata), builtin_template("acuvim2_standard"), memory, Clock())


def bess(memory: Memory, template: str = "tesla_powerpack", **options: Any) -> DeviceDriver:
    metadata = options.pop("metadata", {})
    clock = options.pop("clock", Clock())
    return DeviceDriver(device(DeviceType.BESS, **metadata), builtin_template(template), memory, clock, **options)


@pytest.fixture
def meter_memory() -> Memory:
    memory = Memory()
    memory.put(12288, "f", 50.0)
    memory.put(12304, "f", 115.0)
    memory.put(12306, "4f", 1.0, 2.0, 3.0, 2.0)
    memory.put(12316, "4f", 100.0, -50.0, 25.0, 75.0)
    memory.put(12330, "f", 10.0)
    memory.put(12338, "f", 80.0)
    memory.put(12346, "f", 0.9)
    memory.put(16456, "4I", 12_345_678, 1003, 5, 6)
    memory.put(17952, "6I", 1, 2, 3, 4, 5, 6)
    return memory


@pytest.fixture
def tesla_memory() -> Memory:
    memory = Memory()
    memory.put(102, "32s", b"22.1.4")
    memory.put(118, "32s", b"TG1234")
    memory.put(139, "2i", 100_000, 105_000)
    memory.put(145, "i", 500_000)
    memory.put(200, "H", 3)
    memory.put(201, "i", -20_500)
    memory.put(207, "i", 210_000)
    memory.put(218, "H", 9)
    return memory


# --- polls and readings


class Slow(Memory):
    """Each read that fails takes 20 s to do so, one that works takes a second."""

    def __init__(self, words: dict[int, int], clock: Clock) -> None:
        super().__init__(words)
        self._clock = clock

    async def read(self, unit: int, address: int, count: int, *, function: Function = Function.HOLDING) -> list[int]:
        self._clock.step(20 if address in self.failing else 1)
        return await super().read(unit, address, count, function=function)


async def test_a_poll_tells_how_old_its_oldest_value_is(meter_memory: Memory) -> None:
    clock = Clock()
    memory = Slow(meter_memory.words, clock)
    memory.failing = {16456}
    driver = DeviceDriver(device(DeviceType.METER), builtin_template("acuvim2_standard"), memory, clock)
    poll = await driver.poll()
    assert poll.oldest == NOON + timedelta(seconds=1)
    assert poll.time == NOON + timedelta(seconds=22)


async def test_a_meter_is_read_in_three_blocks_and_scaled(meter_memory: Memory) -> None:
    driver = acuvim(meter_memory, ct_ratio=40, vt_ratio=2, modbus_address=3)
    poll = await driver.poll()
    assert meter_memory.reads == [(12288, 60), (16456, 8), (17952, 12)]
    assert meter_memory.units == {3}
    assert poll.time == NOON
    assert poll.problems == ()
    assert driver.reading(poll) == MeterReading(
        device_id=driver.reading(poll).device_id,
        time=NOON,
        frequency=50.0,
        voltage_line_average=230.0,  # × 2
        current_phase_a=40.0,  # × 40
        current_phase_b=80.0,
        current_phase_c=120.0,
        current_phase_average=80.0,
        power_phase_a_active=8.0,  # × 80 / 1000
        power_phase_b_active=-4.0,
        power_phase_c_active=2.0,
        power_total_active=6.0,
        power_total_reactive=0.8,
        power_total_apparent=6.4,
        power_factor_total=struct.unpack(">f", struct.pack(">f", 0.9))[0],
        energy_imported_active=1234567.8,  # 0.1 kWh, without ratios
        energy_exported_active=100.3,
        energy_imported_reactive=0.5,
        energy_exported_reactive=0.6,
        energy_imported_phase_a_active=0.1,
        energy_exported_phase_a_active=0.2,
        energy_imported_phase_b_active=0.3,
        energy_exported_phase_b_active=0.4,
        energy_imported_phase_c_active=0.5,
        energy_exported_phase_c_active=0.6,
    )


async def test_an_inverted_meter_sees_every_flow_the_other_way_round(meter_memory: Memory) -> None:
    usual = acuvim(meter_memory)
    turned = acuvim(meter_memory, invert=True)
    poll = await usual.poll()
    one, other = usual.reading(poll), turned.reading(await turned.poll())
    assert isinstance(one, MeterReading)
    assert isinstance(other, MeterReading)
    for name in ("power_phase_a_active", "power_phase_b_active", "power_total_active", "power_total_reactive"):
        assert getattr(other, name) == -getattr(one, name) != 0
    assert other.power_factor_total == pytest.approx(-0.9)
    for name in ("energy_{}_active", "energy_{}_phase_b_active", "energy_{}_reactive"):
        assert getattr(other, name.format("imported")) == getattr(one, name.format("exported"))
        assert getattr(other, name.format("exported")) == getattr(one, name.format("imported"))
    for name in ("frequency", "voltage_line_average", "current_phase_a", "power_total_apparent"):
        assert getattr(other, name) == getattr(one, name)
    assert turned.measured_power_kw(poll) == -(usual.measured_power_kw(poll) or 0)


async def test_no_power_is_not_minus_no_power(meter_memory: Memory) -> None:
    meter_memory.put(12322, "f", 0.0)
    driver = acuvim(meter_memory, invert=True)
    assert str(driver.measured_power_kw(await driver.poll())) == "0.0"


async def test_a_battery_without_an_soe_register(tesla_memory: Memory) -> None:
    driver = bess(tesla_memory)
    poll = await driver.poll()
    assert tesla_memory.reads == [(102, 117)]
    assert driver.reading(poll, command_source=6) == BessReading(
        device_id=driver.reading(poll).device_id,
        time=NOON,
        soe=42.0,
        target_power=-20.5,
        available_inverter_blocks=9,
        command_source=6,
    )
    assert driver.charge_limit_kw(poll) == 100.0
    assert driver.discharge_limit_kw(poll) == 105.0
    assert driver.available_blocks(poll) == 9
    assert driver.measured_power_kw(poll) is None  # a target is not a measurement
    assert driver.diagnostics(poll) == {
        "firmware_version": "22.1.4",
        "serial_number": "TG1234",
        "command_source": 3,
        "max_charge_power": 100.0,
        "max_discharge_power": 105.0,
    }


async def test_the_controllers_poll_is_shorter(tesla_memory: Memory) -> None:
    driver = bess(tesla_memory)
    poll = await driver.poll(driver.control_names)
    assert tesla_memory.reads == [(139, 80)]
    assert driver.soe_pct(poll) == 42.0
    assert "serial_number" not in poll.values
    meter = acuvim(Memory())
    assert meter.control_names == {"power_total_active"}


@pytest.mark.parametrize(
    ("stored_wh", "capacity_wh", "metadata", "soe"),
    [
        (250_000, 500_000, {}, 50.0),
        (250_000, 0, {"capacity_kwh": 400}, 62.5),  # it does not say its capacity
        (250_000, 0, {}, None),
        (-1, 500_000, {}, None),
        (510_000, 500_000, {}, 100.0),  # capacity is nominal
        (530_000, 500_000, {}, None),  # and this is another battery's
    ],
)
async def test_soe_from_energy(
    tesla_memory: Memory, stored_wh: int, capacity_wh: int, metadata: dict[str, Any], soe: float | None
) -> None:
    tesla_memory.put(207, "i", stored_wh)
    tesla_memory.put(145, "i", capacity_wh)
    driver = bess(tesla_memory, metadata=metadata)
    assert driver.soe_pct(await driver.poll()) == soe


async def test_a_powerpack_says_its_soe_itself() -> None:
    memory = Memory({2026: 55, 2008: 0x10000 - 30, 2028: 4, 2000: 2, 2010: 1})
    driver = bess(memory, "powerpack_bess", metadata={"max_power_kw": 80, "blocks_total": 6})
    poll = await driver.poll()
    reading = driver.reading(poll)
    assert isinstance(reading, BessReading)
    assert (reading.soe, reading.target_power, reading.available_inverter_blocks) == (55, -30, 4)
    assert reading.command_source is None  # that of the device's own register is a diagnostic
    assert driver.diagnostics(poll) == {"status": 2, "command_source": 1}
    assert driver.charge_limit_kw(poll) == driver.discharge_limit_kw(poll) == 80
    assert driver.blocks_total == 6
    memory.words[2026] = 101
    poll = await driver.poll()
    assert driver.soe_pct(poll) is None
    assert poll.problems == ("soe: 101 is above the plausible maximum 100",)


async def test_a_block_that_fails_leaves_the_others(meter_memory: Memory) -> None:
    meter_memory.failing = {16460}
    driver = acuvim(meter_memory)
    poll = await driver.poll()
    assert poll.problems == ("registers 16456 to 16463: no answer",)
    reading = driver.reading(poll)
    assert isinstance(reading, MeterReading)
    assert reading.energy_imported_active is None
    assert reading.energy_imported_phase_a_active == 0.1
    assert reading.frequency == 50.0


async def test_all_blocks_failing_is_an_error(meter_memory: Memory) -> None:
    meter_memory.failing = set(range(70000))
    with pytest.raises(DeviceError, match="WLCE-GRID-METER: no answer"):
        await acuvim(meter_memory).poll()


async def test_what_is_not_a_number_is_missing(meter_memory: Memory) -> None:
    meter_memory.put(12322, "f", float("nan"))
    meter_memory.put(12288, "f", 0.0)
    driver = acuvim(meter_memory)
    poll = await driver.poll()
    reading = driver.reading(poll)
    assert isinstance(reading, MeterReading)
    assert reading.power_total_active is None
    assert (poll.values["frequency"], reading.frequency) == (None, 0.0), "nothing is decided by it; it is recorded"
    assert poll.problems == (
        "frequency: 0.0 is below the plausible minimum 40",
        "power_total_active: nan is not a finite number",
    )


async def test_a_device_that_refuses_unlisted_registers_is_asked_for_listed_ones_only(tesla_memory: Memory) -> None:
    tesla_memory.missing = {135}  # between the serial number and the power limits
    driver = bess(tesla_memory)
    poll = await driver.poll()
    assert driver.soe_pct(poll) == 42.0
    assert poll.problems == ()
    parts = [(102, 32), (139, 4), (145, 2), (200, 3), (207, 2), (218, 1)]
    assert tesla_memory.reads == [(102, 117), *parts]
    tesla_memory.reads.clear()
    assert (await driver.poll()).values == poll.values
    assert tesla_memory.reads == parts
    tesla_memory.reads.clear()
    await driver.poll(["stored_energy", "capacity"])
    assert tesla_memory.reads == [(145, 2), (207, 2)]


async def test_a_listed_register_that_is_refused_is_told(tesla_memory: Memory) -> None:
    tesla_memory.missing = {218}
    driver = bess(tesla_memory)
    poll = await driver.poll()
    assert driver.soe_pct(poll) == 42.0
    assert driver.available_blocks(poll) is None
    assert len(poll.problems) == 1
    assert poll.problems[0].startswith("registers 218 to 218: read of 218")
    tesla_memory.missing = set(range(102, 219))
    with pytest.raises(DeviceError, match="illegal data address"):
        await driver.poll()


async def test_only_what_can_be_read_is_polled(tesla_memory: Memory) -> None:
    driver = bess(tesla_memory)
    with pytest.raises(NotFoundError, match="template tesla_powerpack has no register 'soe'"):
        await driver.poll(["soe"])
    with pytest.raises(InputError, match="register command_power of template tesla_powerpack can only be written"):
        await driver.poll(["command_power"])
    assert (await driver.poll([])).values == {}


async def test_input_registers_are_read_with_their_own_function() -> None:
    text = "{type: meter, manufacturer: X, function: input, registers: {frequency: 10}}"
    memory = Memory()
    driver = DeviceDriver(device(DeviceType.METER), parse_template(text), memory, Clock())
    await driver.poll()
    assert memory.functions == {Function.INPUT}


def test_a_template_of_another_type_is_refused() -> None:
    with pytest.raises(InputError, match="WLCE-GRID-METER is a meter; template tesla_powerpack is for a bess"):
        DeviceDriver(device(DeviceType.METER), builtin_template("tesla_powerpack"), Memory(), Clock())


# --- commands

RAMPS = [(1024, [1, 34464]), (1026, [1, 34464])]  # 100 kW/s
ALWAYS_ACTIVE, TIMEOUT, MODE = (1001, [0, 1]), (1023, [30]), (1000, [1])


def power(watts: int) -> tuple[int, list[int]]:
    return 1020, list(struct.unpack(">2H", struct.pack(">i", watts)))


async def test_a_first_command_sets_up_and_later_ones_do_not() -> None:
    memory = Memory()
    driver = bess(memory)
    command = await driver.command(-50.1234)
    assert memory.writes == [*RAMPS, ALWAYS_ACTIVE, (1022, [0xAA55]), power(-50_123), TIMEOUT, MODE]
    assert (command.first, command.requested_kw, command.power_kw) == (True, -50.1234, -50.123)
    assert command.acknowledged_at == NOON
    memory.writes.clear()
    assert not (await driver.command(20)).first
    await driver.command(0)
    assert memory.writes == [(1022, [0x55AA]), power(20_000), (1022, [0xAA55]), power(0)]


async def test_after_forget_the_next_is_a_first_command() -> None:
    memory = Memory()
    driver = bess(memory)
    await driver.command(1)
    driver.forget()
    memory.writes.clear()
    await driver.command(1)
    assert [address for address, _ in memory.writes] == [1024, 1026, 1001, 1022, 1020, 1023, 1000]
    assert (1022, [0x55AA]) in memory.writes  # the heartbeat goes on alternating


async def test_after_a_silence_longer_than_the_timeout_it_is_set_up_again() -> None:
    clock = Clock()
    driver = bess(Memory(), clock=clock)
    assert driver.command_timeout_s == 30
    await driver.command(1)
    clock.step(29.9)
    assert not (await driver.command(1)).first
    clock.step(30)
    assert (await driver.command(1)).first


@pytest.mark.parametrize("failing", [1022, 1020])
async def test_after_a_write_that_failed_it_is_set_up_again(failing: int) -> None:
    memory = Memory()
    driver = bess(memory)
    await driver.command(1)
    memory.failing = {failing}
    with pytest.raises(DeviceError, match=r"WLCE-BESS-01: writing command_\w+: no answer"):
        await driver.command(2)
    memory.failing = set()
    beats = [words for address, words in memory.writes if address == 1022]
    memory.writes.clear()
    assert (await driver.command(2)).first
    next_beat = [words for address, words in memory.writes if address == 1022]
    assert next_beat != beats[-1:]  # the device sees another one than the last that it was sent


class SlowWrites(Memory):
    """Takes so many writes in time and then leaves one without an answer."""

    def __init__(self, in_time: int) -> None:
        super().__init__()
        self.in_time, self.left = in_time, in_time

    async def write(self, unit: int, address: int, words: Sequence[int]) -> None:
        if self.left == 0:
            self.left = self.in_time
            await asyncio.Event().wait()
        self.left -= 1
        await super().write(unit, address, words)


async def test_a_slow_set_up_goes_on_where_whoever_asked_gave_up() -> None:
    memory, clock = SlowWrites(4), Clock()
    driver = bess(memory, clock=clock)
    with pytest.raises(DeviceError, match="not acknowledged within"):
        await driver.command(1, within_s=0.02)
    assert [address for address, _ in memory.writes] == [1024, 1026, 1001, 1022], "the constants, a heartbeat"
    memory.writes.clear()
    clock.step(4)
    assert (await driver.command(3, within_s=5)).first
    assert [address for address, _ in memory.writes] == [1022, 1020, 1023, 1000], "the mode comes last"
    assert power(3000) in memory.writes
    assert not driver.dry_run(3).first


async def test_a_slow_set_up_begins_anew_after_an_error_a_long_time_or_a_forget() -> None:
    async def half_done() -> tuple[SlowWrites, Clock, DeviceDriver]:
        memory, clock = SlowWrites(4), Clock()
        driver = bess(memory, clock=clock)
        with pytest.raises(DeviceError):
            await driver.command(1, within_s=0.02)
        assert len(driver.dry_run(1).writes) == 4, "heartbeat, power, timeout, mode"
        return memory, clock, driver

    _, clock, driver = await half_done()
    clock.step(30)
    assert len(driver.dry_run(1).writes) == 7, "the device may have given up on us"
    _, _, driver = await half_done()
    driver.forget()
    assert len(driver.dry_run(1).writes) == 7
    memory, _, driver = await half_done()
    memory.failing = {1020}
    with pytest.raises(DeviceError, match="no answer"):
        await driver.command(1)
    assert len(driver.dry_run(1).writes) == 7


async def test_a_first_command_that_failed_stays_the_first() -> None:
    memory = Memory()
    memory.failing = {1000}
    driver = bess(memory)
    with pytest.raises(DeviceError, match="writing command_mode"):
        await driver.command(5)
    memory.failing = set()
    assert (await driver.command(5)).first


async def test_the_timeout_may_be_another() -> None:
    memory = Memory()
    driver = bess(memory, command_timeout_s=12)
    await driver.command(1)
    assert (1023, [12]) in memory.writes
    assert driver.command_timeout_s == 12


async def test_dry_run_says_what_would_be_written_and_changes_nothing() -> None:
    memory = Memory()
    driver = bess(memory)
    planned = driver.dry_run(12.5)
    assert driver.dry_run(12.5) == planned
    assert memory.writes == []
    assert planned.acknowledged_at is None
    done = await driver.command(12.5)
    assert done.writes == planned.writes
    assert [(write.address, list(write.words)) for write in planned.writes] == memory.writes
    assert [str(write.step) for write in planned.writes][4:5] == ["power"]


@pytest.mark.parametrize("power_kw", [float("nan"), float("inf"), float("-inf"), 1e9])
async def test_a_power_that_makes_no_sense_is_refused(power_kw: float) -> None:
    memory = Memory()
    driver = bess(memory)
    with pytest.raises(RefusedError, match="WLCE-BESS-01: "):
        driver.dry_run(power_kw)
    with pytest.raises(RefusedError):
        await driver.command(power_kw)
    assert memory.writes == []


async def test_without_a_command_timeout_it_is_refused_unless_accepted() -> None:
    memory = Memory()
    with pytest.raises(NotControllableError, match="has no command timeout"):
        await bess(memory, "powerpack_bess").command(1)
    driver = bess(memory, "powerpack_bess", without_timeout=True)
    assert (await driver.command(-30.4)).power_kw == -30
    assert driver.command_timeout_s is None
    assert memory.writes == [(2008, [0x10000 - 30])]


async def test_without_a_set_point_it_is_refused_whatever_was_accepted() -> None:
    text = "{type: bess, manufacturer: X, registers: {soe: 2026, target_power: 2008}}"
    driver = DeviceDriver(device(DeviceType.BESS), parse_template(text), Memory(), Clock(), without_timeout=True)
    with pytest.raises(NotControllableError, match="has no set-point"):
        driver.dry_run(1)


def limited_template() -> DeviceTemplate:
    body = builtin_template("tesla_powerpack").model_dump(mode="json")
    for register in body["registers"]:
        if register["name"] == "command_power":
            register |= {"min": -100, "max": 105, "scale": -0.001}
    return DeviceTemplate.model_validate(body)


async def test_a_power_outside_the_registers_range_is_refused_and_a_negative_scale_turns_the_sign() -> None:
    memory = Memory()
    driver = DeviceDriver(device(DeviceType.BESS), limited_template(), memory, Clock())
    for wrong in (105.001, -100.001):
        with pytest.raises(RefusedError, match="outside min and max of register command_power"):
            await driver.command(wrong)
    assert (await driver.command(105)).power_kw == 105
    assert power(-105_000) in memory.writes


@given(power_kw=st.floats(-2_000_000, 2_000_000))
def test_what_is_acknowledged_is_what_was_asked_to_half_a_step(power_kw: float) -> None:
    command = bess(Memory()).dry_run(power_kw)
    assert abs(command.power_kw - power_kw) <= 0.0005 * (1 + 1e-9)
    words = next(write.words for write in command.writes if str(write.step) == "power")
    (watts,) = struct.unpack(">i", struct.pack(">2H", *words))
    assert watts / 1000 == command.power_kw


# --- over TCP


async def test_a_driver_over_tcp_polls_and_commands() -> None:
    async with RawServer() as server, ConnectionPool() as pool:
        one = device(DeviceType.BESS, host="127.0.0.1", port=server.port, modbus_address=4)
        driver = driver_for(one, builtin_template("tesla_powerpack"), pool, Clock())
        poll = await driver.poll()
        assert poll.values["available_blocks"] == 218  # each register of this server holds its address
        assert (await driver.command(10)).power_kw == 10
        assert {request.unit for request in server.requests} == {4}
        assert [request.address for request in server.requests] == [102, 1024, 1026, 1001, 1022, 1020, 1023, 1000]


async def test_a_command_does_not_outlive_its_limit() -> None:
    async with RawServer(lambda request: None) as server, ConnectionPool() as pool:
        one = device(DeviceType.BESS, host="127.0.0.1", port=server.port)
        driver = driver_for(one, builtin_template("tesla_powerpack"), pool, Clock())
        with pytest.raises(DeviceError, match=r"WLCE-BESS-01: command not acknowledged within 0\.05 s"):
            await driver.command(10, within_s=0.05)
        assert driver.dry_run(10).first


def test_a_device_without_a_host_is_told_so() -> None:
    with pytest.raises(InputError, match="WLCE-BESS-01: its metadata has no host; add `host` and `port`"):
        driver_for(device(DeviceType.BESS), builtin_template("tesla_powerpack"), ConnectionPool(), Clock())
