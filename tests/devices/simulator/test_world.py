"""A simulated site in fast time: registers say what the physics know, commands do what the template says."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flux.devices.codec import decode, encode, plan_blocks
from flux.devices.registers import Function
from flux.devices.simulator import (
    BatteryConfig,
    DeviceConfig,
    LoadConfig,
    SimConfig,
    SimulatedSite,
    SolarConfig,
    demo_site,
    load_sim_config,
    memory_transport,
)
from flux.devices.simulator.values import BATTERY_VALUES, METER_VALUES
from flux.devices.template import builtin_template, builtin_templates, parse_template
from flux.devices.transport import DeviceFaultError, DeviceTimeoutError
from flux.errors import InputError, NotFoundError
from flux.model import METER_METRICS, DeviceType, MeterType, parse_metadata

START = datetime(2026, 1, 15, 12, tzinfo=UTC)
BESS = "WLCE-BESS-01"
GRID = "WLCE-GRID-METER"


def steady_site(load_kw: float = 40, solar_kw: float = 100, **battery: Any) -> SimulatedSite:
    config = demo_site(port=0)
    bess, *meters = config.devices
    assert bess.battery is not None
    bess = bess.model_copy(update={"battery": bess.battery.model_copy(update=battery)})
    return SimulatedSite(
        config.model_copy(
            update={
                "load": LoadConfig(constant_kw=load_kw),
                "solar": SolarConfig(constant_kw=solar_kw),
                "devices": (bess, *meters),
            }
        ),
        START,
    )


async def value(site: SimulatedSite, device: str, name: str) -> Any:
    """Read one register as a driver does."""
    simulated = site.device(device)
    register = simulated.template.register(name)
    words = await memory_transport(site, device).read(1, register.address, register.words)
    factor = register.factor(vt_ratio=simulated.config.vt_ratio, ct_ratio=simulated.config.ct_ratio)
    return decode(register, words, factor=factor)


async def write(site: SimulatedSite, device: str, name: str, number: float) -> None:
    register = site.device(device).template.register(name)
    await memory_transport(site, device).write(1, register.address, encode(register, number))


async def command(site: SimulatedSite, power_kw: float, heartbeat: int = 0xAA55, timeout_s: float = 30) -> None:
    """A first command, in the order of the Tesla template."""
    for name, number in (
        ("command_ramp_up", 50_000),
        ("command_ramp_down", 50_000),
        ("command_always_active", 1),
        ("command_heartbeat", heartbeat),
        ("command_power", power_kw),
        ("command_timeout", timeout_s),
        ("command_mode", 1),
    ):
        await write(site, BESS, name, number)


async def test_a_meter_s_registers_agree_with_each_other() -> None:
    site = steady_site()
    site.step(START + timedelta(hours=1))
    read = {
        metric.name: await value(site, GRID, metric.name) for metric in METER_METRICS if "apparent" not in metric.name
    }
    assert read["power_total_active"] == pytest.approx(-60, rel=1e-6)
    assert sum(read[f"power_phase_{p}_active"] for p in "abc") == pytest.approx(-60, rel=1e-6)
    apparent = await value(site, GRID, "power_total_apparent")
    assert read["power_factor_total"] == pytest.approx(-60 / apparent, rel=1e-5)
    kva = sum(read["voltage_line_average"] / 3**0.5 * read[f"current_phase_{p}"] for p in "abc") / 1000
    assert kva == pytest.approx(apparent, rel=0.05)  # the vector sum differs from that of the phases when unbalanced
    assert read["energy_exported_active"] == pytest.approx(60.0, abs=0.051)
    assert read["energy_imported_active"] == 0
    assert 49.8 < read["frequency"] < 50.2
    assert 10_500 < read["voltage_line_average"] < 11_500


async def test_the_readings_of_the_four_meters_balance() -> None:
    site = steady_site()
    await command(site, -55)
    site.step(START + timedelta(seconds=20))
    grid, generation, load, storage = [
        await value(site, f"WLCE-{name}-METER", "power_total_active") for name in ("GRID", "GENERATION", "LOAD", "BESS")
    ]
    assert (load, generation, storage) == pytest.approx((40, -100, 55), rel=1e-6)
    assert grid == pytest.approx(-5, abs=1e-4)


async def test_registers_of_the_battery() -> None:
    site = steady_site()
    assert await value(site, BESS, "stored_energy") == 250
    assert await value(site, BESS, "capacity") == 500
    assert await value(site, BESS, "max_charge_power") == 100
    assert await value(site, BESS, "max_discharge_power") == 105
    assert await value(site, BESS, "available_blocks") == 10
    assert await value(site, BESS, "serial_number") == "TG-SIM-0001"
    assert await value(site, BESS, "command_source") == 0


async def test_a_first_command_is_followed_within_ramp_and_limits() -> None:
    site = steady_site()
    await command(site, 200)
    assert await value(site, BESS, "target_power") == 105
    site.step(START + timedelta(seconds=1))
    assert site.battery(BESS).power_kw == 50
    site.step(START + timedelta(seconds=20))
    assert site.battery(BESS).power_kw == 105
    assert await value(site, BESS, "command_source") == 1


async def test_a_set_point_without_direct_mode_is_ignored() -> None:
    site = steady_site()
    await write(site, BESS, "command_power", 50)
    await write(site, BESS, "command_heartbeat", 0xAA55)
    site.step(START + timedelta(seconds=10))
    assert site.battery(BESS).power_kw == 0
    await write(site, BESS, "command_mode", 1)
    site.step(START + timedelta(seconds=20))
    assert site.battery(BESS).power_kw == 50
    await write(site, BESS, "command_mode", 2)
    site.step(START + timedelta(seconds=30))
    assert site.battery(BESS).power_kw == 0


async def test_only_a_heartbeat_that_changes_keeps_a_command_alive() -> None:
    site = steady_site()
    await command(site, 50, heartbeat=0xAA55, timeout_s=30)
    site.step(START + timedelta(seconds=29))
    assert site.battery(BESS).power_kw == 50
    await write(site, BESS, "command_heartbeat", 0xAA55)
    await write(site, BESS, "command_power", 60)
    site.step(START + timedelta(seconds=40))
    assert (site.battery(BESS).power_kw, await value(site, BESS, "target_power")) == (0, 0)
    await write(site, BESS, "command_heartbeat", 0x55AA)
    site.step(START + timedelta(seconds=50))
    assert site.battery(BESS).power_kw == 60


async def test_powerpack_follows_target_power_and_never_times_out() -> None:
    battery = BatteryConfig(capacity_kwh=500, charge_limit_kw=100, discharge_limit_kw=105, blocks=8)
    device = DeviceConfig(name="P", type=DeviceType.BESS, template="powerpack_bess", battery=battery)
    site = SimulatedSite(SimConfig(site="S", devices=(device,)), START)
    await write(site, "P", "target_power", -80)
    assert await value(site, "P", "target_power") == -80
    site.step(START + timedelta(hours=2))
    assert site.battery("P").power_kw == -80
    assert await value(site, "P", "soe") == round(100 * (250 + 2 * 80 * 0.9) / 500)
    assert await value(site, "P", "available_blocks") == 8


async def test_fewer_blocks_limit_the_battery() -> None:
    site = steady_site()
    await command(site, 105)
    site.set_available_blocks(BESS, 4)
    site.step(START + timedelta(seconds=10))
    assert site.battery(BESS).power_kw == pytest.approx(42)
    assert await value(site, BESS, "available_blocks") == 4
    with pytest.raises(InputError, match="has 10 blocks, 11"):
        site.set_available_blocks(BESS, 11)


async def test_a_restarted_device_forgets_commands_and_keeps_energy() -> None:
    site = steady_site()
    await command(site, 50)
    site.step(START + timedelta(seconds=20))
    energy = site.battery(BESS).energy_kwh
    site.restart_device(BESS)
    assert await value(site, BESS, "command_mode") == 0
    assert await value(site, BESS, "command_power") == 0
    assert site.battery(BESS).energy_kwh == energy
    site.step(START + timedelta(seconds=30))
    assert site.battery(BESS).power_kw == 0


async def test_a_reversed_meter_counts_imports_as_exports() -> None:
    config = demo_site(port=0)
    grid = config.devices[1].model_copy(update={"invert": True})
    reversed_config = config.model_copy(
        update={
            "devices": (config.devices[0], grid, *config.devices[2:]),
            "load": LoadConfig(constant_kw=40),
            "solar": SolarConfig(),
        }
    )
    site = SimulatedSite(reversed_config, START)
    site.step(START + timedelta(hours=1))
    assert await value(site, GRID, "power_total_active") == pytest.approx(-40)
    assert await value(site, GRID, "energy_exported_active") == 40
    assert site.meter(GRID).power_kw == 40


async def test_a_lagging_meter_shows_the_past() -> None:
    site = steady_site()
    site.set_lag(GRID, timedelta(minutes=30))
    for minutes in range(0, 61, 10):
        site.step(START + timedelta(minutes=minutes))
        site.publish()
    assert await value(site, GRID, "energy_exported_active") == 30
    site.set_lag(GRID, timedelta())
    site.publish()
    assert await value(site, GRID, "energy_exported_active") == 60


async def test_a_counter_at_its_full_width_starts_again_at_zero() -> None:
    site = steady_site(solar_kw=0)
    site.meter(GRID).active.imported = (2**32 - 1) / 10
    site.publish()
    assert await value(site, GRID, "energy_imported_active") == 429_496_729.5
    site.step(START + timedelta(hours=1))
    assert await value(site, GRID, "energy_imported_active") == pytest.approx(39.9)


@pytest.mark.parametrize("name", sorted(builtin_templates()))
async def test_every_built_in_template_can_be_read_as_a_driver_reads_it(name: str) -> None:
    template = builtin_template(name)
    common = {"name": "D", "type": template.type, "template": name}
    battery = BatteryConfig(capacity_kwh=100, charge_limit_kw=50, discharge_limit_kw=50)
    own = {"battery": battery} if template.type is DeviceType.BESS else {"meter_type": MeterType.GRID}
    site = SimulatedSite(SimConfig(site="S", devices=(DeviceConfig.model_validate(common | own),)), START)
    transport = memory_transport(site, "D")
    site.step(START + timedelta(minutes=5))
    for block in plan_blocks(template.readable, template.max_block_words, template.max_gap_words):
        words = await transport.read(1, block.address, block.count, function=template.function)
        for register in block.registers:
            decoded = decode(register, block.slice(register, words))
            assert decoded is not None
            assert isinstance(decoded, str) or register.plausible(decoded), f"{register.name}: {decoded}"


def test_the_simulator_knows_every_metric_of_a_meter() -> None:
    assert {metric.name for metric in METER_METRICS} <= set(METER_VALUES)
    assert {"soe", "target_power", "available_blocks", "command_source"} <= set(BATTERY_VALUES)


CUSTOM = """
name: custom
type: meter
manufacturer: Acme
function: input
max_gap_words: 2
registers:
  - {name: frequency, address: 10, type: uint16, scale: 0.01, unit: Hz}
  - {name: power_total_active, address: 14, type: int32, word_order: little, scale: 0.001, unit: kW}
  - {name: energy_imported_active, address: 13, type: uint16, unit: kWh}
  - {name: parameter, address: 10, type: uint16, access: write, diagnostic: true}
"""


async def test_a_template_of_one_s_own_with_input_registers_and_gaps() -> None:
    device = DeviceConfig(name="M", type=DeviceType.METER, template="custom", meter_type=MeterType.LOAD)
    config = SimConfig(site="S", devices=(device,), load=LoadConfig(constant_kw=12.345))
    site = SimulatedSite(config, START, {"custom": parse_template(CUSTOM)})
    transport = memory_transport(site, "M")
    words = await transport.read(1, 10, 6, function=Function.INPUT)
    assert 4980 < words[0] < 5020
    assert words[1:3] == [0, 0]
    site.step(START + timedelta(hours=2))
    words = await transport.read(1, 13, 3, function=Function.INPUT)
    assert list(words) == [25, 12345, 0]
    await transport.write(1, 10, [77])
    assert list(await transport.read(1, 10, 1)) == [77]


@pytest.mark.parametrize(
    ("address", "count", "code"),
    [(12286, 4, 2), (12288, 126, 3), (12288, 0, 3), (16464, 1, 2), (12340, 40, 2), (16400, 60, 2)],
)
async def test_reads_that_the_device_refuses(address: int, count: int, code: int) -> None:
    with pytest.raises(DeviceFaultError) as refused:
        await memory_transport(steady_site(), GRID).read(1, address, count)
    assert refused.value.code == code


async def test_the_table_that_the_template_does_not_use_is_refused() -> None:
    with pytest.raises(DeviceFaultError) as refused:
        await memory_transport(steady_site(), GRID).read(1, 12288, 2, function=Function.INPUT)
    assert refused.value.code == 1


@pytest.mark.parametrize(
    ("address", "words", "code"),
    [(201, [0, 1], 2), (1020, [0], 2), (1021, [0, 1], 2), (1003, [1], 2), (1022, [1, 2, 3], 2), (1000, [], 3)],
    ids=["read-only", "half a register", "from its middle", "unlisted", "over its end", "nothing"],
)
async def test_writes_that_the_device_refuses_change_nothing(address: int, words: list[int], code: int) -> None:
    site = steady_site()
    before = site.state()
    with pytest.raises(DeviceFaultError) as refused:
        await memory_transport(site, BESS).write(1, address, words)
    assert refused.value.code == code
    assert site.state() == before


async def test_one_write_may_span_registers_that_adjoin() -> None:
    site = steady_site()
    await memory_transport(site, BESS).write(1, 1022, [0xAA55, 45])
    assert site.battery(BESS).timeout_s == 45


async def test_another_unit_does_not_answer() -> None:
    with pytest.raises(DeviceTimeoutError, match="unit 7 does not answer"):
        await memory_transport(steady_site(), GRID).read(7, 12288, 2)


def test_metadata_is_ready_for_the_registry() -> None:
    for device in steady_site().devices:
        metadata = parse_metadata(device.type, device.metadata | {"port": 502})
        assert metadata.template_name == device.template.name
        assert metadata.serial_number


async def test_state_goes_through_json_and_back() -> None:
    site = steady_site()
    await command(site, -35, timeout_s=900)
    site.step(START + timedelta(minutes=10))
    state = json.loads(json.dumps(site.state()))
    again = steady_site()
    again.restore(state, site.time)
    assert again.state() == site.state()
    assert await value(again, BESS, "command_power") == -35
    site.step(START + timedelta(minutes=20))
    again.step(START + timedelta(minutes=20))
    assert again.state() == site.state()


async def test_the_time_away_is_not_simulated_and_ages_commands() -> None:
    site = steady_site()
    await command(site, -35, timeout_s=900)
    site.step(START + timedelta(minutes=10))
    counters = site.meter(GRID).active.exported
    again = steady_site()
    again.restore(site.state(), START + timedelta(days=1))
    assert again.time == START + timedelta(days=1)
    assert again.meter(GRID).active.exported == counters
    assert again.battery(BESS).timed_out


@pytest.mark.parametrize(
    "change",
    [{"site": "OTHER"}, {"version": 0}, {"devices": {BESS: {}}}, {"devices": None}, {"time_us": "x"}],
    ids=["site", "version", "device", "devices", "time"],
)
def test_a_state_that_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    site = steady_site()
    with pytest.raises(InputError, match="state"):
        site.restore(site.state() | change, START)


def test_unknown_devices_are_named() -> None:
    with pytest.raises(NotFoundError, match="no simulated device 'X'; there are WLCE-BESS-01"):
        steady_site().device("X")
    with pytest.raises(NotFoundError, match="is a meter"):
        steady_site().battery(GRID)


def test_time_does_not_run_backwards() -> None:
    site = steady_site()
    site.step(START + timedelta(minutes=1))
    before = site.state()
    site.step(START)
    assert site.state() == before


def test_energy_is_the_same_whatever_the_step() -> None:
    coarse, fine = SimulatedSite(demo_site(port=0), START), SimulatedSite(demo_site(port=0), START)
    for site in (coarse, fine):
        battery = site.battery(BESS)
        battery.following, battery.timeout_s, battery.set_point_kw = True, None, -77
    coarse.step(START + timedelta(minutes=7))
    for seconds in range(0, 421, 3):
        fine.step(START + timedelta(seconds=seconds))
    for device in coarse.devices:
        if device.type is DeviceType.METER:
            one, other = coarse.meter(device.name), fine.meter(device.name)
            assert one.active.imported == pytest.approx(other.active.imported, abs=1e-9)
            assert one.active.exported == pytest.approx(other.active.exported, abs=1e-9)


async def test_a_demo_day_has_a_surplus_to_charge_from_and_a_peak_to_carry() -> None:
    for month in (1, 4, 7, 10, 12):
        start = datetime(2026, month, 20, tzinfo=UTC)
        site = SimulatedSite(demo_site(port=0), start)
        surplus = peak = most = 0.0
        for minute in range(24 * 60):
            site.step(start + timedelta(minutes=minute))
            net = site.load_kw - site.solar_kw
            surplus += max(-net, 0) / 60
            peak += max(net, 0) / 60
            most = max(most, net)
        assert surplus > 40, f"month {month}"
        assert peak > 60, f"month {month}"
        assert most < 105, f"month {month}"


SITE_YAML = """
site: HMCE
load: {file: load.csv, scale: 2}
devices:
  - name: HMCE-BESS-01
    type: bess
    template: own.yaml
    port: 16001
    battery: {capacity_kwh: 100, charge_limit_kw: 50, discharge_limit_kw: 50}
  - {name: HMCE-GRID-METER, type: meter, template: acuvim2_standard, port: 16001, unit: 2, meter_type: grid}
"""


def test_a_site_from_yaml_with_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "sim.yaml").write_text(SITE_YAML)
    (tmp_path / "load.csv").write_text("UTCTime,energy\n2026-01-15 12:00:00+00:00,3\n2026-01-15 12:30:00+00:00,4\n")
    (tmp_path / "own.yaml").write_text("type: bess\nmanufacturer: Acme\nregisters: {soe: 1, target_power: 2}\n")
    site = SimulatedSite(load_sim_config(tmp_path / "sim.yaml"), START)
    assert site.load_kw == 12
    assert site.device("HMCE-BESS-01").template.name == "own"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("capacity_kwh: 100", "capacity_kwh: -1", r"sim\.yaml:9: devices\[0\]\.battery\.capacity_kwh: -1"),
        ("meter_type: grid", "meter_kind: grid", r"sim\.yaml:10: .*unknown key; did you mean 'meter_type'"),
        ("unit: 2", "unit: 1", "2 devices are at unit 1 of 127.0.0.1:16001"),
        ("HMCE-GRID-METER", "HMCE-BESS-01", "2 devices are named HMCE-BESS-01"),
        ("meter_type: grid", "meter_type: storage, batteries: [B]", "meters B, which is no bess here"),
        ("scale: 2", "constant_kw: 2", "not both"),
        (", meter_type: grid", "", "needs a `meter_type`"),
    ],
)
def test_a_wrong_site_file_is_refused_by_field(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SITE_YAML
    (tmp_path / "sim.yaml").write_text(SITE_YAML.replace(old, new))
    with pytest.raises(InputError, match=message):
        load_sim_config(tmp_path / "sim.yaml")


def test_a_template_of_the_wrong_kind_is_refused() -> None:
    device = DeviceConfig(name="M", type=DeviceType.METER, template="tesla_powerpack", meter_type=MeterType.GRID)
    with pytest.raises(InputError, match="M is a meter; template tesla_powerpack is for a bess"):
        SimulatedSite(SimConfig(site="S", devices=(device,)), START)


async def test_a_read_of_any_part_is_that_part_of_the_whole() -> None:
    transport = memory_transport(steady_site(), GRID)
    whole = list(await transport.read(1, 12288, 60))
    for address in range(12288, 12348):
        for count in range(1, 12349 - address):
            part = list(await transport.read(1, address, count))
            assert part == whole[address - 12288 : address - 12288 + count]
        with pytest.raises(DeviceFaultError):
            await transport.read(1, address, 12349 - address)
