"""A rounded set-point never leaves its limits while the register can hold a power within them."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flux.devices.registers import Register
from flux.devices.rounding import held_value, step_of
from flux.errors import InputError


def register(kind: str = "int16", scale: float = 1.0) -> Register:
    return Register.model_validate({"name": "power", "address": 1, "type": kind, "scale": scale, "access": "write"})


@pytest.mark.parametrize(
    ("value", "inside", "held"),
    [
        pytest.param(40.4, None, 40, id="to the nearest"),
        pytest.param(40.6, None, 41, id="to the nearest, up"),
        pytest.param(40.6, (-100, 40.6), 40, id="not past the highest"),
        pytest.param(-40.6, (-40.6, 100), -40, id="not past the lowest"),
        pytest.param(40.4, (40.4, 100), 41, id="as much as the grid needs"),
        pytest.param(99.6, (-100, 100), 100, id="a limit itself is inside"),
        pytest.param(40.6, (40.5, 40.7), 40, id="nothing fits: towards 0"),
        pytest.param(-40.6, (-40.7, -40.5), -40, id="nothing fits, charging: towards 0"),
        pytest.param(0.3, (0.2, 0.4), 0, id="nothing fits, near 0"),
    ],
)
def test_whole_kilowatts(value: float, inside: tuple[float, float] | None, held: float) -> None:
    assert held_value(register(), value, inside) == held


def test_a_register_that_counts_the_other_way_is_rounded_alike() -> None:
    assert held_value(register(scale=-1.0), 40.6, (-100, 40.6)) == 40


def test_a_float_holds_what_it_is_given() -> None:
    assert step_of(register("float32")) == 0
    assert held_value(register("float32"), 40.6, (-100, 40.6)) == pytest.approx(40.6)


def test_what_it_can_not_hold_is_refused() -> None:
    with pytest.raises(InputError, match="does not fit"):
        held_value(register(), 40_000)


@example(125.921875, 0.0, 0.0, 0.001)  # an eighth of a watt past a limit: within what a limit is known to
@given(
    st.floats(-300, 300),
    st.floats(0, 200),
    st.floats(0, 200),
    st.sampled_from([1.0, 0.1, 0.001, -0.5, 5.0]),
)
def test_it_stays_inside_whenever_it_can(value: float, down: float, up: float, scale: float) -> None:
    one = register("int32", scale)
    low, high = value - down, value + up
    step = abs(scale)
    held = held_value(one, value, (low, high))
    slack = 1e-6 * max(1, abs(held))
    assert abs(held - value) <= step * (1 + 1e-9), "never further than one step away"
    if math.ceil(low / step) <= math.floor(high / step):
        assert low - 1e-3 * step - slack <= held <= high + 1e-3 * step + slack
    else:
        assert abs(held) <= abs(value) + slack, "towards 0"
