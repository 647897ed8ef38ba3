"""What must hold between the registers of a template; each problem names the field and says what to do."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flux.devices.codec import encode
from flux.devices.control import ControlSection, Step
from flux.devices.names import known_names
from flux.devices.registers import Register, RegisterType
from flux.errors import InputError
from flux.model import DeviceType

_ALIKE = 0.85  # power_total_actve and power_total_active are 0.97 alike; power_factor_total is 0.67


@dataclass(frozen=True, slots=True)
class Problem:
    """``path`` leads to the field in the file, from the template's own top."""

    path: tuple[str | int, ...]
    message: str


def problems_of(
    type: DeviceType,
    registers: Sequence[Register],
    control: ControlSection | None,
    reads_inputs: bool,
    max_block_words: int,
    keys: Sequence[int | str] | None = None,
) -> list[Problem]:
    """Everything that is wrong; ``keys`` says under which key or number each register stands in its file."""
    keys = range(len(registers)) if keys is None else keys
    named = list(zip(keys, registers, strict=True))
    problems = [*_duplicates(named), *_overlaps(named, reads_inputs)]
    if not problems:  # what follows from a register that stands there twice need not be told as well
        problems += [*_names(type, named), *_access(named, reads_inputs, max_block_words)]
    if control is not None and not problems:
        problems += _control(type, {register.name: register for register in registers}, control)
    return problems


_Named = Sequence[tuple[int | str, Register]]


def _duplicates(named: _Named) -> Iterator[Problem]:
    seen: dict[str, Register] = {}
    for key, register in named:
        first = seen.setdefault(register.name, register)
        if first is not register:
            where = f"the register at {first.address}"
            yield Problem(("registers", key, "name"), f"{register.name!r} is the name of {where} too; rename one")


def _overlaps(named: _Named, reads_inputs: bool) -> Iterator[Problem]:
    """Registers that share words. Input registers and those written are two tables, each with addresses of its own."""
    last: dict[bool, Register] = {}
    for key, register in sorted(named, key=lambda one: one[1].address):
        table = reads_inputs and register.readable
        other = last.get(table)
        if other is not None and register.address < other.end:
            yield Problem(
                ("registers", key, "address"),
                f"{register.address}: {register.name} ({_span(register)}) overlaps {other.name} ({_span(other)}); "
                "correct the address or the type of one",
            )
        if other is None or register.end > other.end:
            last[table] = register


def _span(register: Register) -> str:
    last = register.end - 1
    return f"{register.type} at {register.address}" + (f" to {last}" if last > register.address else "")


def _names(type: DeviceType, named: _Named) -> Iterator[Problem]:
    """A misspelt metric would be read and never recorded."""
    known = known_names(type)
    absent = set(known) - {register.name for _, register in named}
    for key, register in named:
        if register.name in known:
            unit = known[register.name].unit
            if register.type is RegisterType.STRING and known[register.name].type is not RegisterType.STRING:
                yield Problem(("registers", key, "type"), f"'string': {register.name} is a number; give it that type")
            elif register.unit and register.unit != unit:
                yield Problem(
                    ("registers", key, "unit"),
                    f"{register.unit!r}: {register.name} is recorded in {unit or 'no unit'}; "
                    f"set `scale` so that raw × scale comes in that unit",
                )
        elif not register.diagnostic:
            near = difflib.get_close_matches(register.name, absent, n=1, cutoff=_ALIKE)
            if near:
                yield Problem(
                    ("registers", key, "name"),
                    f"{register.name!r} is not a name that Flux records; did you mean {near[0]!r}? "
                    "If not, set `diagnostic: true` on it",
                )


def _access(named: _Named, reads_inputs: bool, max_block_words: int) -> Iterator[Problem]:
    for key, register in named:
        if reads_inputs and register.readable and register.writable:
            yield Problem(
                ("registers", key, "access"),
                "'read_write': an input register cannot be written; use `write` for a holding register",
            )
        if register.words > max_block_words:
            yield Problem(
                ("registers", key, "length"), f"{register.words} words are more than max_block_words {max_block_words}"
            )


def _control(type: DeviceType, registers: dict[str, Register], control: ControlSection) -> Iterator[Problem]:
    if type is not DeviceType.BESS:
        yield Problem(("control",), f"a {type} cannot be commanded; remove this section, or set `type: bess`")
    steps = control.registers
    taken: set[str] = set()
    for step, name in steps.items():
        path = ("control", str(step), "register")
        register = registers.get(name)
        if register is None:
            near = difflib.get_close_matches(name, registers, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "; add it under `registers`"
            yield Problem(path, f"{name!r} is no register of this template{hint}")
        elif not register.writable or register.type is RegisterType.STRING:
            yield Problem(path, f"{name!r} cannot be written; give it a number's type and `access: write`")
        elif name in taken:
            yield Problem(path, f"{name!r} stands for two things at once; each needs a register of its own")
        elif step is Step.POWER and register.unit not in ("", "kW"):
            yield Problem(path, f"{name!r} is in {register.unit}; scale it so that it comes in kW")
        else:
            yield from _encodable(str(step), register, control)
        taken.add(name)


def _encodable(step: str, register: Register, control: ControlSection) -> Iterator[Problem]:
    section = getattr(control, step)
    values = getattr(section, "values", None) or [getattr(section, "value", 0)]
    for value in values:
        try:
            encode(register, value)
        except InputError as error:
            yield Problem(("control", step), str(error))
        else:
            if not register.plausible(value):
                yield Problem(("control", step), f"{value!r} is outside min and max of register {register.name}")
