"""A set-point as a register can hold it, without rounding past a limit. Pure.

A register of whole kW takes 99.6 kW as 100 kW; where 99.8 kW is the limit, as 99 kW.
"""

import math

from flux.devices.codec import decode, encode
from flux.devices.registers import Register, RegisterType

Range = tuple[float, float]
_SLACK = 1e-6
"""Of a power: a float32 holds 16.7 million of its steps, and no limit is known that well."""


def step_of(register: Register) -> float:
    """The distance of the values that an integer register can hold; 0 for one that holds any."""
    return 0.0 if register.type is RegisterType.FLOAT32 else abs(register.scale)


def held_value(register: Register, value: float, inside: Range | None = None) -> float:
    """The value that the register can hold nearest to ``value`` and within ``inside``, both ends included.

    Where it can hold none in there: the next one towards 0. InputError for what it cannot hold at all.
    """
    nearest = decode(register, encode(register, value))
    assert isinstance(nearest, int | float)  # noqa: S101 - a finite number was encoded into a number
    step = step_of(register)
    if inside is None or not step or _is_within(nearest, inside):
        return nearest
    near = (nearest - step, nearest + step)
    fitting = [one for one in near if _is_within(one, inside)]
    if fitting:
        return min(fitting, key=lambda one: abs(one - value))
    return nearest if abs(nearest) <= abs(value) else nearest - math.copysign(step, nearest)


def _is_within(value: float, inside: Range) -> bool:
    low, high = inside
    slack = _SLACK * max(1.0, abs(value))
    return low - slack <= value <= high + slack
