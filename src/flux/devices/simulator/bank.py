"""The registers of one simulated device: any template, served word by word.

What the physics know is encoded when it is asked for, by the same codec that a driver decodes it with. A read may run
over unlisted addresses as far as the template says that the device allows it (``max_gap_words``); they read 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flux.devices.codec import Value, decode, encode
from flux.devices.registers import Function, Register, RegisterType
from flux.devices.simulator.values import BATTERY_VALUES, METER_VALUES, BatteryView, DeviceView, MeterView
from flux.devices.template import DeviceTemplate

ILLEGAL_FUNCTION = 1
ILLEGAL_ADDRESS = 2
ILLEGAL_VALUE = 3
MAX_READ = 125
MAX_WRITE = 123

_BITS = {RegisterType.UINT16: 16, RegisterType.UINT32: 32, RegisterType.INT16: 16, RegisterType.INT32: 32}
_SIGNED = frozenset({RegisterType.INT16, RegisterType.INT32})


class ModbusFaultError(Exception):
    """The device refuses, with this Modbus exception code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exception {code}")
        self.code = code


@dataclass(frozen=True, slots=True)
class _Span:
    """Addresses from start to end (exclusive) that one read may be within."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Part:
    """Where in a reply which words of a register stand."""

    register: Register
    to: slice
    of: slice


class RegisterBank:
    """Reads and writes by address. ``view`` gives what is published now; ``on_write`` hears of each value written."""

    def __init__(
        self,
        template: DeviceTemplate,
        view: Callable[[], DeviceView],
        on_write: Callable[[str, Value], None],
        *,
        texts: Mapping[str, str],
        vt_ratio: float = 1.0,
        ct_ratio: float = 1.0,
        max_gap: int | None = None,
    ) -> None:
        self.template = template
        self._view = view
        self._on_write = on_write
        self._texts = dict(texts)
        self._factors = {r.name: r.factor(vt_ratio=vt_ratio, ct_ratio=ct_ratio) for r in template.registers}
        gap = template.max_gap_words if max_gap is None else max_gap
        self._tables = _tables_of(template)
        self._spans = {function: _spans(registers, gap) for function, registers in self._tables.items()}
        self._written: dict[str, list[int]] = {}
        self._shown: DeviceView | None = None
        self._words: dict[str, list[int]] = {}
        self._replies: dict[tuple[Function, int, int], list[int]] = {}
        self._parts: dict[tuple[Function, int, int], list[_Part]] = {}

    def read(self, function: Function, address: int, count: int) -> Sequence[int]:
        """``count`` words from ``address``; raises :class:`ModbusFaultError` as the device would."""
        if not self._tables[function]:
            raise ModbusFaultError(ILLEGAL_FUNCTION)
        if not 1 <= count <= MAX_READ:
            raise ModbusFaultError(ILLEGAL_VALUE)
        view = self._view()
        if view is not self._shown:
            self._shown = view
            self._words.clear()
            self._replies.clear()
        key = (function, address, count)
        reply = self._replies.get(key)
        if reply is None:
            reply = self._replies[key] = self._assemble(key, view)
        return reply

    def write(self, address: int, words: Sequence[int]) -> None:
        """Write whole registers from ``address`` on: all of them or, with :class:`ModbusFaultError`, none."""
        if not 1 <= len(words) <= MAX_WRITE:
            raise ModbusFaultError(ILLEGAL_VALUE)
        written: list[tuple[Register, list[int], Value]] = []
        at = address
        while at < address + len(words):
            register = self._writable_at(at)
            own = list(words[at - address : register.end - address])
            if len(own) < register.words:
                raise ModbusFaultError(ILLEGAL_ADDRESS)
            value = decode(register, own, factor=self._factors[register.name])
            if value is None or (not isinstance(value, str) and not register.plausible(value)):
                raise ModbusFaultError(ILLEGAL_VALUE)
            written.append((register, own, value))
            at = register.end
        for register, own, value in written:
            self._written[register.name] = own
            self._on_write(register.name, value)
            self._words[register.name] = own  # read back as written until the physics publish what came of it
        self._replies.clear()

    def forget(self, names: Sequence[str]) -> None:
        """Lose what was written to these registers, as a device that restarts does."""
        for name in names:
            self._written.pop(name, None)
        self._shown = None

    @property
    def written(self) -> dict[str, list[int]]:
        """What was written, by register; part of the device's state."""
        return dict(self._written)

    def restore(self, written: Mapping[str, Sequence[int]]) -> None:
        """Put back what :attr:`written` said; registers that the template no longer has are left out."""
        for name, words in written.items():
            register = self.template.find(name)
            if register is not None and register.words == len(words):
                self._written[name] = list(words)
        self._shown = None

    def _assemble(self, key: tuple[Function, int, int], view: DeviceView) -> list[int]:
        parts = self._parts.get(key)
        if parts is None:
            parts = self._parts[key] = self._parts_of(*key)
        reply = [0] * key[2]
        for part in parts:
            words = self._words.get(part.register.name)
            if words is None:
                words = self._words[part.register.name] = self._encoded(part.register, view)
            reply[part.to] = words[part.of]
        return reply

    def _parts_of(self, function: Function, address: int, count: int) -> list[_Part]:
        """What a read consists of; refuses one that leaves what the device has."""
        end = address + count
        if not any(span.start <= address and end <= span.end for span in self._spans[function]):
            raise ModbusFaultError(ILLEGAL_ADDRESS)
        parts = []
        for register in self._tables[function]:
            first, last = max(register.address, address), min(register.end, end)
            if first < last:
                to, of = (
                    slice(first - address, last - address),
                    slice(first - register.address, last - register.address),
                )
                parts.append(_Part(register, to, of))
        return parts

    def _encoded(self, register: Register, view: DeviceView) -> list[int]:
        value = self._value(register, view)
        if value is None:
            return self._written.get(register.name, [0] * register.words)
        factor = self._factors[register.name]
        bits = _BITS.get(register.type)
        if bits is not None and not isinstance(value, str):
            value = _held(value, register.scale * factor, bits, signed=register.type in _SIGNED)
        return encode(register, value, factor=factor)

    def _value(self, register: Register, view: DeviceView) -> Value | None:
        """What the register says; ``None`` when nothing that is simulated stands behind its name."""
        if register.type is RegisterType.STRING:
            text = self._texts.get(register.name)
            return None if text is None else text[: register.words * 2]
        match view:
            case BatteryView():
                battery_value = BATTERY_VALUES.get(register.name)
                return None if battery_value is None else battery_value(view)
            case MeterView():
                meter_value = METER_VALUES.get(register.name)
                return None if meter_value is None else meter_value(view)

    def _writable_at(self, address: int) -> Register:
        for register in self._tables[Function.HOLDING]:
            if register.address == address and register.writable:
                return register
        raise ModbusFaultError(ILLEGAL_ADDRESS)


def _held(value: float, unit: float, bits: int, *, signed: bool) -> float:
    """What an integer register makes of a value: a counter at its full width starts again at 0, a level saturates."""
    steps = round(value / unit)
    if signed:
        return min(max(steps, -(1 << bits - 1)), (1 << bits - 1) - 1) * unit
    return steps % (1 << bits) * unit


def _tables_of(template: DeviceTemplate) -> dict[Function, tuple[Register, ...]]:
    """The registers by the function that reads them; what is written can be read back from the holding registers."""
    if template.function is Function.HOLDING:
        return {Function.HOLDING: template.registers, Function.INPUT: ()}
    written = tuple(register for register in template.registers if register.writable)
    return {Function.HOLDING: written, Function.INPUT: template.readable}


def _spans(registers: Sequence[Register], max_gap: int) -> list[_Span]:
    spans: list[_Span] = []
    for register in sorted(registers, key=lambda one: one.address):
        if spans and register.address - spans[-1].end <= max_gap:
            spans[-1] = _Span(spans[-1].start, max(spans[-1].end, register.end))
        else:
            spans.append(_Span(register.address, register.end))
    return spans
