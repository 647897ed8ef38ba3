"""What a template says, for whoever wrote it: ``python -m flux.devices.describe my-device.yaml``."""

import sys
from pathlib import Path

from flux.devices.codec import plan_blocks
from flux.devices.control import ControlSection
from flux.devices.names import known_names
from flux.devices.registers import Register
from flux.devices.template import DeviceTemplate, load_template
from flux.errors import InputError
from flux.model import BESS_METRICS, METER_METRICS, DeviceType, format_duration

_FROM_OTHERS = {"available_inverter_blocks": "available_blocks", "command_source": None}
"""Metrics of a battery that come from a register of another name, or from none."""


def describe(template: DeviceTemplate) -> str:
    """Its registers, the reads of a poll, what is recorded and what is not, and the order of its commands."""
    config = template.default_config
    lines = [
        f"{template.name}: {template.manufacturer} {template.model or ''}".rstrip() + f" ({template.type})",
        f"polled every {format_duration(config.polling_interval)}; a request may take "
        f"{format_duration(config.timeout)} and is repeated {config.retry_count} times",
        "",
        *(_register_line(register) for register in sorted(template.registers, key=lambda one: one.address)),
        "",
    ]
    blocks = plan_blocks(template.readable, template.max_block_words, template.max_gap_words)
    reads = ", ".join(f"{block.address} to {block.address + block.count - 1}" for block in blocks)
    lines.append(f"{len(blocks)} {'read' if len(blocks) == 1 else 'reads'} of {template.function} registers: {reads}")
    lines += _recorded(template)
    if template.type is DeviceType.BESS:
        lines += _control(template.control)
    return "\n".join(lines)


def _register_line(register: Register) -> str:
    size = f"{register.type}" + (f" of {register.length} bytes" if register.length else "")
    scale = "" if register.scale == 1 else f" × {register.scale:g}"
    ratio = f" × {register.ratio} ratio" if register.ratio else ""
    return f"  {register.address:>5}  {register.name:<32} {size}{scale}{ratio} {register.unit}".rstrip()


def _recorded(template: DeviceTemplate) -> list[str]:
    """Which metrics a reading will have, and which it will not."""
    names = {register.name for register in template.readable}
    bess = template.type is DeviceType.BESS
    has_soe = "soe" in names or "stored_energy" in names
    absent = []
    for metric in BESS_METRICS if bess else METER_METRICS:
        source = _FROM_OTHERS.get(metric.name, metric.name) if bess else metric.name
        if source is not None and source not in names and not (source == "soe" and has_soe):
            absent.append(metric.name)
    own = sorted(names - set(known_names(template.type)))
    lines = [f"not recorded, for want of a register: {', '.join(absent)}"] if absent else ["every metric is recorded"]
    return lines + ([f"read as diagnostics: {', '.join(own)}"] if own else [])


def _control(control: ControlSection | None) -> list[str]:
    if control is None:
        return ["cannot be commanded: no `control` section"]
    orders = [
        f"{key} command: {', '.join(order)}" for key, order in (("first", control.first), ("later", control.later))
    ]
    if control.timeout is None:
        return [*orders, "no command timeout: controlled only where the plan says `without_timeout: accepted`"]
    return [*orders, f"goes to its safe state {control.timeout.value:g} s after the last command"]


def main(arguments: list[str]) -> int:
    """Describe the files named; 2 when one is wrong, after saying what."""
    if not arguments:
        print("usage: python -m flux.devices.describe FILE…", file=sys.stderr)
        return InputError.exit_code
    try:
        for argument in arguments:
            print(describe(load_template(Path(argument))))
    except InputError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
