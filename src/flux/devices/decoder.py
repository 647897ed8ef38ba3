"""The values of a whole block in one go: what a driver prepares once so that a poll costs little.

Gives exactly what :func:`flux.devices.codec.decode` gives for each register alone, in about a tenth of the time.
"""

import struct
import sys
from collections.abc import Sequence
from math import isfinite

from flux.devices.codec import STRUCT_CODES, Block, Scaling, Value, text_of
from flux.devices.registers import Register, RegisterType, WordOrder
from flux.errors import DeviceError

_LARGEST = sys.float_info.max


class BlockDecoder:
    """Decodes the replies to one block of a device whose ratios are known."""

    def __init__(self, block: Block, *, vt_ratio: float = 1.0, ct_ratio: float = 1.0) -> None:
        self.block = block
        self._pack = struct.Struct(f">{block.count}H").pack
        self._unpack = struct.Struct(_layout(block)).unpack
        self._order = _word_order(block)
        self._fields = [_field(one, one.factor(vt_ratio=vt_ratio, ct_ratio=ct_ratio)) for one in block.registers]

    def decode_into(
        self,
        words: Sequence[int],
        values: dict[str, Value | None],
        problems: list[str],
        implausible: dict[str, float] | None = None,
    ) -> None:
        """Put the value of each register under its name; ``None``, and a problem, for one that is not plausible.

        A number outside its range goes to ``implausible`` instead: it is recorded, and nothing is decided by it.

        Raises :class:`DeviceError` when the reply is not as long as was asked for.
        """
        if len(words) != self.block.count:
            raise DeviceError(f"asked for {self.block.count} registers from {self.block.address}, got {len(words)}")
        if self._order is not None:
            words = [words[index] for index in self._order]
        raws = self._unpack(self._pack(*words))
        for raw, (name, scaling, low, high) in zip(raws, self._fields, strict=True):
            if isinstance(raw, bytes):
                values[name] = text_of(raw)
                continue
            value = raw * scaling[0] / scaling[1] if scaling else raw
            if low <= value <= high:  # false for a NaN
                values[name] = value
            else:
                values[name] = None
                if implausible is not None and isfinite(value):
                    implausible[name] = value
                problems.append(f"{name}: {value!r} is {_why_not(value, low, high)}")


def _field(register: Register, factor: float) -> tuple[str, tuple[float, float] | None, float, float]:
    """Name, multiplier and divisor (None: as it is), lowest and highest plausible value."""
    low = -_LARGEST if register.min is None else register.min
    high = _LARGEST if register.max is None else register.max
    if register.type is RegisterType.STRING:
        return register.name, None, low, high
    scaling = Scaling.of(register, factor)
    return register.name, None if scaling.identity else (scaling.multiplier, scaling.divisor), low, high


def _why_not(value: float, low: float, high: float) -> str:
    if not isfinite(value):
        return "not a finite number"
    return f"above the plausible maximum {high:g}" if value > high else f"below the plausible minimum {low:g}"


def _layout(block: Block) -> str:
    """The struct format of the block: a code for each register, padding for the words in between."""
    layout, address = ">", block.address
    for register in block.registers:
        layout += "xx" * (register.address - address)
        layout += f"{register.length}s" if register.length else STRUCT_CODES[register.type]
        address = register.end
    return layout


def _word_order(block: Block) -> tuple[int, ...] | None:
    """Where each word comes from once little-endian registers are turned round; None when there are none."""
    order = list(range(block.count))
    for register in block.registers:
        if register.word_order is WordOrder.LITTLE:
            start, end = register.address - block.address, register.end - block.address
            order[start:end] = order[start:end][::-1]
    return None if order == sorted(order) else tuple(order)
