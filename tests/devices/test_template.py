"""Templates: what comes with Flux, both forms of the file, and what is said of a file that is wrong."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from flux.config.yaml import plain
from flux.devices.codec import plan_blocks
from flux.devices.control import Step
from flux.devices.registers import Access, Ratio, RegisterType
from flux.devices.template import (
    DeviceTemplate,
    Function,
    builtin_template,
    builtin_templates,
    load_template,
    parse_template,
    template_schema,
)
from flux.errors import InputError, NotFoundError
from flux.model import BESS_METRICS, METER_METRICS, DeviceType, MetricKind, parse_duration

FOLDER = Path(__file__).parents[2] / "src" / "flux" / "devices" / "templates"

ISSUED_SHORT_FORM = """\
device_template:
  type: bess
  manufacturer: PowerPack
  default_config: {polling_interval: 60s, timeout: 5s, retry_count: 3}
  registers: {soe: 2026, target_power: 2008, status: 2000, available_blocks: 2028}
  scaling: {power: 1.0, energy: 0.001}
"""

LONG_FORM = """\
device_template:
  name: mine
  type: bess
  manufacturer: Somebody
  registers:
    - {name: soe, address: 10, type: uint16, unit: "%"}
    - {name: set_power, address: 20, type: int32, scale: 0.001, unit: kW, access: write}
    - {name: set_timeout, address: 22, type: uint16, unit: s, access: write}
  control:
    power: {register: set_power}
    timeout: {register: set_timeout, value: 30}
"""


def addresses(template: DeviceTemplate) -> dict[str, tuple[int, str]]:
    return {one.name: (one.address, str(one.type)) for one in template.registers}


# --- what comes with Flux


def test_powerpack_is_the_map_of_the_manual() -> None:
    powerpack = builtin_template("powerpack_bess")
    assert addresses(powerpack) == {
        "soe": (2026, "uint16"),
        "target_power": (2008, "int16"),
        "status": (2000, "uint16"),
        "available_blocks": (2028, "uint16"),
        "command_source": (2010, "uint16"),
    }
    assert powerpack.has_set_point
    assert not powerpack.controllable  # it has no command timeout


def test_tesla_is_the_map_of_the_manual() -> None:
    tesla = builtin_template("tesla_powerpack")
    assert addresses(tesla) == {
        "firmware_version": (102, "string"),
        "serial_number": (118, "string"),
        "max_charge_power": (139, "int32"),
        "max_discharge_power": (141, "int32"),
        "capacity": (145, "int32"),
        "command_source": (200, "uint16"),
        "target_power": (201, "int32"),
        "stored_energy": (207, "int32"),
        "available_blocks": (218, "uint16"),
        "command_mode": (1000, "uint16"),
        "command_always_active": (1001, "int32"),
        "command_power": (1020, "int32"),
        "command_heartbeat": (1022, "uint16"),
        "command_timeout": (1023, "uint16"),
        "command_ramp_up": (1024, "int32"),
        "command_ramp_down": (1026, "int32"),
    }
    assert {one.length for one in tesla.registers if one.type is RegisterType.STRING} == {32}
    assert {one.scale for one in tesla.registers if one.unit in ("kW", "kWh")} == {0.001}
    assert tesla.controllable
    control = tesla.control
    assert control is not None
    assert [str(step) for step in control.first] == [
        "ramp_up",
        "ramp_down",
        "always_active",
        "heartbeat",
        "power",
        "timeout",
        "mode",
    ]
    assert control.later == (Step.HEARTBEAT, Step.POWER)
    assert control.heartbeat is not None
    assert control.heartbeat.values == (0xAA55, 0x55AA)
    assert control.constants()[Step.MODE] == 1


def test_tesla_is_read_in_one_block_and_the_acuvim_in_three() -> None:
    def blocks(name: str) -> list[tuple[int, int]]:
        one = builtin_template(name)
        return [(b.address, b.count) for b in plan_blocks(one.readable, one.max_block_words, one.max_gap_words)]

    assert blocks("tesla_powerpack") == [(102, 117)]
    assert blocks("acuvim2_standard") == [(12288, 60), (16456, 8), (17952, 12)]


def test_acuvim_is_the_map_of_the_manual() -> None:
    acuvim = builtin_template("acuvim2_standard")
    found = {one.name: one.address for one in acuvim.registers}
    assert found == {
        "frequency": 12288,
        "voltage_line_average": 12304,
        "current_phase_a": 12306,
        "current_phase_b": 12308,
        "current_phase_c": 12310,
        "current_phase_average": 12312,
        "power_phase_a_active": 12316,
        "power_phase_b_active": 12318,
        "power_phase_c_active": 12320,
        "power_total_active": 12322,
        "power_total_reactive": 12330,
        "power_total_apparent": 12338,
        "power_factor_total": 12346,
        "energy_imported_active": 16456,
        "energy_exported_active": 16458,
        "energy_imported_reactive": 16460,
        "energy_exported_reactive": 16462,
        "energy_imported_phase_a_active": 17952,
        "energy_exported_phase_a_active": 17954,
        "energy_imported_phase_b_active": 17956,
        "energy_exported_phase_b_active": 17958,
        "energy_imported_phase_c_active": 17960,
        "energy_exported_phase_c_active": 17962,
    }
    for metric in METER_METRICS:
        one = acuvim.find(metric.name)
        if one is None:
            continue
        if metric.kind is MetricKind.COUNTER:
            assert (one.type, one.scale, one.ratio) == (RegisterType.UINT32, 0.1, None)
        else:
            ratio = {"V": Ratio.VT, "A": Ratio.CT, "Hz": None, "1": None}.get(metric.unit, Ratio.VT_CT)
            scale = 0.001 if ratio is Ratio.VT_CT else 1.0
            assert (one.type, one.scale, one.ratio) == (RegisterType.FLOAT32, scale, ratio), metric.name


@pytest.mark.parametrize("name", sorted(builtin_templates()))
def test_each_built_in_template_goes_through_json_and_keeps_its_hash(name: str) -> None:
    template = builtin_template(name)
    again = DeviceTemplate.model_validate_json(template.model_dump_json())
    assert again == template
    assert again.content_hash == template.content_hash
    assert template.name == name
    metrics = {metric.name for metric in (METER_METRICS if template.type is DeviceType.METER else BESS_METRICS)}
    assert metrics & {one.name for one in template.registers}


def test_the_hash_tells_what_differs() -> None:
    hashes = {template.content_hash for template in builtin_templates().values()}
    hashes.add(parse_template(LONG_FORM).content_hash)
    hashes.add(parse_template(LONG_FORM.replace("value: 30", "value: 31")).content_hash)
    assert len(hashes) == 5


def test_an_unknown_built_in_names_those_there_are() -> None:
    with pytest.raises(NotFoundError, match="no built-in device template 'tesla'; there are acuvim2_standard, power"):
        builtin_template("tesla")


# --- the two forms


def test_the_short_form_gives_each_name_its_type() -> None:
    template = parse_template(ISSUED_SHORT_FORM, "sites/powerpack.yaml")
    assert template.name == "powerpack"  # after the file
    assert addresses(template) == {
        "soe": (2026, "uint16"),
        "target_power": (2008, "int16"),
        "status": (2000, "uint16"),
        "available_blocks": (2028, "uint16"),
    }
    assert template.register("soe").unit == "%"
    assert template.register("target_power").unit == "kW"
    assert {one.access for one in template.registers} == {Access.READ}
    assert not template.has_set_point
    assert template.default_config.polling_interval == parse_duration("60s")
    assert template.default_config.retry_count == 3


def test_the_short_form_scales_power_and_energy() -> None:
    text = ISSUED_SHORT_FORM.replace("soe: 2026", "stored_energy: 2026").replace("power: 1.0", "power: 0.1")
    template = parse_template(text)
    assert template.register("stored_energy").scale == 0.001
    assert template.register("target_power").scale == 0.1
    assert template.register("status").scale == 1.0


def test_the_short_form_takes_whatever_differs() -> None:
    text = ISSUED_SHORT_FORM.replace("soe: 2026", "soe: {address: 2026, type: float32, word_order: little, max: 100}")
    soe = parse_template(text.replace("available_blocks: 2028", "my_own: {address: 2030, type: int32}")).register("soe")
    assert (soe.type, soe.words, soe.max, soe.unit) == (RegisterType.FLOAT32, 2, 100, "%")


def test_the_long_form_needs_no_wrapper_and_defaults_its_orders() -> None:
    bare = "\n".join(line[2:] for line in LONG_FORM.splitlines()[1:])
    assert parse_template(bare) == parse_template(LONG_FORM)
    control = parse_template(LONG_FORM).control
    assert control is not None
    assert control.first == (Step.POWER, Step.TIMEOUT)
    assert control.later == (Step.POWER,)


def test_it_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(ISSUED_SHORT_FORM)
    assert load_template(path).name == "own"
    with pytest.raises(InputError, match=r"none\.yaml: No such file"):
        load_template(tmp_path / "none.yaml")


# --- what is wrong is said in one line


def broken(text: str, old: str, new: str) -> str:
    """What is said of ``text`` once ``old`` is ``new``."""
    assert old in text
    with pytest.raises(InputError) as caught:
        parse_template(text.replace(old, new), "my.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "type: int32, scale",
            "type: int23, scale",
            "my.yaml:7: device_template.registers[1].type: 'int23': input should be "
            "'uint16', 'int16', 'uint32', 'int32', 'float32' or 'string'",
        ),
        ("manufacturer:", "manufacturr:", "unknown key; did you mean 'manufacturer'?"),
        ("access: write}\n  control", "acces: write}\n  control", "unknown key; did you mean 'access'?"),
        (
            "address: 22",
            "address: 21",
            "my.yaml:8: device_template.registers[2].address: 21: set_timeout (uint16 at 21) overlaps set_power (int32 "
            "at 20 to 21); correct the address or the type of one",
        ),
        (
            "name: set_timeout",
            "name: soe",
            "my.yaml:8: device_template.registers[2].name: 'soe' is the name of the register at 10 too; rename one",
        ),
        (
            "name: soe",
            "name: staus",
            "my.yaml:6: device_template.registers[0].name: 'staus' is not a name that Flux records; did you mean "
            "'status'? If not, set `diagnostic: true` on it",
        ),
        (
            'unit: "%"',
            "unit: kWh",
            "my.yaml:6: device_template.registers[0].unit: 'kWh': soe is recorded in %; set `scale` so that raw × "
            "scale comes in that unit",
        ),
        (
            "type: bess",
            "type: battery",
            "my.yaml:3: device_template.type: 'battery': input should be 'bess' or 'meter'",
        ),
        (
            "{register: set_power}",
            "{register: set_powr}",
            "my.yaml:10: device_template.control.power.register: 'set_powr' is no register of this template; did you "
            "mean 'set_power'?",
        ),
        (
            "{register: set_power}",
            "{register: soe}",
            "my.yaml:10: device_template.control.power.register: 'soe' cannot be written; give it a number's type and "
            "`access: write`",
        ),
        (
            "value: 30",
            "value: 70000",
            "my.yaml:11: device_template.control.timeout: register set_timeout: 70000.0 s does not fit in uint16; it "
            "holds 0 to 65535 s",
        ),
        (
            "register: set_timeout",
            "register: set_power",
            "my.yaml:11: device_template.control.timeout.register: 'set_power' stands for two things at once; each "
            "needs a register of its own",
        ),
        (
            "value: 30",
            "value: 0",
            "my.yaml:11: device_template.control.timeout.value: 0: input should be greater than 0",
        ),
        ("address: 10,", "address: 65536,", "input should be less than or equal to 65535"),
        ("address: 22", "address: 65535, type: int32", "found duplicate key"),
        ("address: 20", "address: 65535", "its 2 words would end after address 65535"),
        ("type: uint16, unit: s", "type: string", "a string needs `length` in bytes"),
        ("scale: 0.001", "scale: 0", "scale 0 would make every value 0"),
        ("scale: 0.001", "scale: .inf", "input should be a finite number"),
        ("scale: 0.001", "min: 5, max: 4", "min 5 is above max 4"),
        ("scale: 0.001", "length: 4", "`length` is for strings only"),
        ('type: uint16, unit: "%"', "type: string, length: 4", "'string': soe is a number; give it that type"),
        ("  control:", "  function: input\n  control:", ""),
        (
            "device_template:\n",
            "sites: 4\ndevice_template:\n",
            "my.yaml:1: sites: unknown key beside 'device_template'",
        ),
        ("  control:", "  default_config: {timeout: 5}\n  control:", "5 has no unit; write it like 4s, 20m or 2h"),
        ("  control:", "  default_config: {polling_interval: 0s}\n  control:", "greater than 0"),
        ("  control:", "  default_config: {retry_count: 100}\n  control:", "less than or equal to 10"),
    ],
)
def test_one_line_names_file_line_field_and_what_to_do(old: str, new: str, message: str) -> None:
    if not message:  # input registers are a table of their own, so write-only registers stay allowed
        assert parse_template(LONG_FORM.replace(old, new)).function is Function.INPUT
        return
    told = broken(LONG_FORM, old, new)
    assert "\n" not in told
    assert told.startswith("my.yaml:")
    assert message in told


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "2000,",
            "2008,",
            "my.yaml:5: device_template.registers.status.address: 2008: status (uint16 at 2008) overlaps",
        ),
        (
            "soe:",
            "sow:",
            "no register of a bess is known by this name; give it a `type`, or use one of available_blocks, ",
        ),
        (
            "soe: 2026",
            "soe: high",
            "my.yaml:5: device_template.registers.soe.address: 'high': input should be a valid int",
        ),
        ("soe: 2026", "soe: {adress: 5}", "unknown key; did you mean 'address'?"),
        ("soe: 2026", "soe: {address: 5, length: 4}", "registers.soe: `length` is for strings only"),
        ("energy: 0.001", "enrgy: 0.001", "unknown key; did you mean 'energy'?"),
        ("soe: 2026", "soe: 2026, soe: 2027", 'found duplicate key "soe"'),
        ("soe: 2026", "SoE: 2026", "should match pattern"),
    ],
)
def test_the_short_form_too(old: str, new: str, message: str) -> None:
    told = broken(ISSUED_SHORT_FORM, old, new)
    assert message in told.splitlines()[0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    power: {", "    first: [timeout]\n    power: {", "first must name power"),
        ("    power: {", "    first: [power]\n    power: {", "first leaves out timeout, which would never be written"),
        ("    power: {", "    first: [power, timeout, mode]\n    power: {", "first names mode, which has no section"),
        ("    power: {", "    first: [power, timeout, power]\n    power: {", "first names power twice"),
        ("    power: {", "    later: []\n    power: {", "later must name power"),
        (
            "    power: {",
            "    heartbeat: {register: soe, values: [1, 1]}\n    power: {",
            "the two values must differ",
        ),
    ],
)
def test_orders_of_commands_are_checked(old: str, new: str, message: str) -> None:
    assert message in broken(LONG_FORM, old, new)


def test_an_own_register_may_look_like_a_metric_when_it_says_so() -> None:
    text = LONG_FORM.replace("name: soe,", "name: staus, diagnostic: true,").replace('unit: "%"', "unit: V")
    assert parse_template(text).find("staus") is not None


def test_a_meter_cannot_be_commanded() -> None:
    text = LONG_FORM.replace("type: bess", "type: meter").replace("name: soe", "name: temperature")
    assert "a meter cannot be commanded" in broken(text, "Somebody", "Somebody else")


def test_an_input_register_cannot_be_written() -> None:
    text = LONG_FORM.replace("  registers:", "  function: input\n  registers:")
    assert "an input register cannot be written" in broken(text, "kW, access: write", "kW, access: read_write")


def test_the_same_holds_for_a_template_made_in_code() -> None:
    body = parse_template(LONG_FORM).model_dump(mode="json")
    body["registers"][2]["address"] = 21
    with pytest.raises(ValueError, match=r"registers\.2\.address: 21: set_timeout .* overlaps"):
        DeviceTemplate.model_validate(body)


# --- the schema


def valid(text: str) -> bool:
    data: Any = plain(YAML(typ="rt", pure=True).load(text))
    return bool(jsonschema.Draft202012Validator(template_schema()).is_valid(data))


def test_the_schema_takes_what_loads() -> None:
    jsonschema.Draft202012Validator.check_schema(template_schema())
    assert valid(ISSUED_SHORT_FORM)
    assert valid(LONG_FORM)
    for path in FOLDER.glob("*.yaml"):
        assert valid(path.read_text()), path.name


@pytest.mark.parametrize(
    ("old", "new"),
    [("manufacturer", "maker"), ("60s", "60"), ("soe: 2026", "soe: high"), ("retry_count: 3", "retry_count: -1")],
)
def test_the_schema_refuses_what_does_not(old: str, new: str) -> None:
    assert not valid(ISSUED_SHORT_FORM.replace(old, new))
    with pytest.raises(InputError):
        parse_template(ISSUED_SHORT_FORM.replace(old, new))


def test_the_examples_of_the_docs_load() -> None:
    text = (FOLDER.parents[3] / "docs" / "templates.md").read_text()
    blocks = [block.split("```")[0] for block in text.split("```yaml\n")[1:]]
    templates = [parse_template(block) for block in blocks if block.startswith("device_template")]
    assert [template.type for template in templates] == [DeviceType.BESS, DeviceType.METER]
    (control,) = [block for block in blocks if block.startswith("  control:")]
    tesla = (FOLDER / "tesla_powerpack.yaml").read_text()
    assert parse_template(tesla[: tesla.index("  control:")] + control) == builtin_template("tesla_powerpack")
