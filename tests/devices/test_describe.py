"""What is said of a template to whoever wrote it."""

from pathlib import Path

import pytest

from flux.devices.describe import describe, main
from flux.devices.template import builtin_template, parse_template

FOLDER = Path(__file__).parents[2] / "src" / "flux" / "devices" / "templates"


def test_a_battery() -> None:
    lines = describe(builtin_template("tesla_powerpack")).splitlines()
    assert lines[0] == "tesla_powerpack: Tesla Powerpack (bess)"
    assert "    207  stored_energy                    int32 × 0.001 kWh" in lines
    assert "1 read of holding registers: 102 to 218" in lines
    assert "every metric is recorded" in lines
    assert "first command: ramp_up, ramp_down, always_active, heartbeat, power, timeout, mode" in lines
    assert lines[-1] == "goes to its safe state 30 s after the last command"
    assert "no command timeout" in describe(builtin_template("powerpack_bess"))


def test_a_meter_says_what_it_lacks() -> None:
    lines = describe(builtin_template("acuvim2_standard")).splitlines()
    assert "  12322  power_total_active               float32 × 0.001 × vt_ct ratio kW" in lines
    assert lines[-1] == "not recorded, for want of a register: energy_imported_apparent, energy_exported_apparent"


def test_registers_of_ones_own_are_named() -> None:
    text = "{type: bess, manufacturer: X, registers: {status: 1, my_heat: {address: 5, type: int16}}}"
    lines = describe(parse_template(text)).splitlines()
    assert "not recorded, for want of a register: soe, target_power, available_inverter_blocks" in lines
    assert "read as diagnostics: my_heat" in lines
    assert lines[-1] == "cannot be commanded: no `control` section"


def test_as_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(FOLDER / "powerpack_bess.yaml")]) == 0
    assert capsys.readouterr().out.startswith("powerpack_bess: ")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("{type: bess, manufacturer: X, registers: {soe: -1}}")
    assert main([str(wrong)]) == 2
    assert capsys.readouterr().err.startswith(f"{wrong}:1: registers.soe.address: -1: ")
    assert main([]) == 2
    assert "usage: " in capsys.readouterr().err
