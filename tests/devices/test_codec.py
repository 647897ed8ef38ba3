"""Words ↔ values, and which blocks to read."""

import math
import struct
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flux.devices.codec import Block, Scaling, decode, encode, plan_blocks
from flux.devices.decoder import BlockDecoder
from flux.devices.registers import Ratio, Register, RegisterType, WordOrder
from flux.errors import DeviceError, InputError

NUMERIC = [kind for kind in RegisterType if kind is not RegisterType.STRING]
INTEGERS = [kind for kind in NUMERIC if kind is not RegisterType.FLOAT32]


def register(type: RegisterType = RegisterType.UINT16, **fields: object) -> Register:
    return Register.model_validate({"name": "value", "address": 100, "type": type} | fields)


words_of = st.integers(0, 0xFFFF)
scales = st.sampled_from([1.0, 0.1, 0.01, 0.001, -1.0, -0.001, 10.0, 0.25, 0.08, 1.5])


# --- decode


@pytest.mark.parametrize(
    ("type", "words", "value"),
    [
        (RegisterType.UINT16, [0xFFFF], 65535),
        (RegisterType.INT16, [0xFFFF], -1),
        (RegisterType.UINT32, [0x0001, 0x0000], 65536),
        (RegisterType.INT32, [0xFFFF, 0xD8F0], -10000),
        (RegisterType.FLOAT32, [0x4248, 0x0000], 50.0),
        (RegisterType.FLOAT32, [0x7FC0, 0x0000], None),  # NaN
        (RegisterType.FLOAT32, [0xFF80, 0x0000], None),  # -inf
    ],
)
def test_decodes_each_type(type: RegisterType, words: list[int], value: float | None) -> None:
    assert decode(register(type), words) == value


def test_an_integer_without_a_scale_stays_an_integer() -> None:
    assert isinstance(decode(register(RegisterType.UINT32), [1, 2]), int)


def test_the_low_word_comes_first_when_the_order_is_little() -> None:
    little = register(RegisterType.INT32, word_order=WordOrder.LITTLE)
    assert decode(little, [0xD8F0, 0xFFFF]) == -10000
    assert encode(little, -10000) == [0xD8F0, 0xFFFF]


def test_a_decimal_scale_gives_the_decimal_number() -> None:
    assert decode(register(RegisterType.UINT32, scale=0.1), [0, 3]) == 0.3  # and not 0.30000000000000004
    assert decode(register(RegisterType.INT32, scale=0.001), [1, 34471]) == 100.007


def test_ratios_multiply_on_top_of_the_scale() -> None:
    power = register(RegisterType.FLOAT32, scale=0.001, ratio=Ratio.VT_CT)
    words = list(struct.unpack(">2H", struct.pack(">f", 250.0)))
    assert power.factor(vt_ratio=100, ct_ratio=40) == 4000
    assert decode(power, words, factor=4000) == 1000.0
    assert register(ratio=Ratio.CT).factor(vt_ratio=100, ct_ratio=40) == 40
    assert register(ratio=Ratio.VT).factor(vt_ratio=100, ct_ratio=40) == 100
    assert register().factor(vt_ratio=100, ct_ratio=40) == 1


def test_text_ends_at_the_first_nul() -> None:
    text = register(RegisterType.STRING, length=8)
    assert decode(text, [0x5631, 0x2E32, 0x0000, 0x4142]) == "V1.2"
    assert decode(text, [0x5631, 0x2E32, 0x2020, 0x2020]) == "V1.2"
    assert decode(text, [0x56FF, 0, 0, 0]) == "V\\xff"


def test_the_wrong_number_of_words_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="1 words given, 2 needed"):
        decode(register(RegisterType.INT32), [1])


# --- encode


@given(type=st.sampled_from(INTEGERS), order=st.sampled_from(WordOrder), scale=scales, data=st.data())
def test_integers_come_back_as_the_same_words(
    type: RegisterType, order: WordOrder, scale: float, data: st.DataObject
) -> None:
    one = register(type, word_order=order, scale=scale)
    words = data.draw(st.lists(words_of, min_size=one.words, max_size=one.words))
    value = decode(one, words)
    assert value is not None
    assert encode(one, value) == words


@given(words=st.lists(words_of, min_size=2, max_size=2), order=st.sampled_from(WordOrder))
def test_floats_come_back_as_the_same_words(words: list[int], order: WordOrder) -> None:
    one = register(RegisterType.FLOAT32, word_order=order)
    value = decode(one, words)
    assume(value is not None)
    assert value is not None
    assert encode(one, value) == words


@given(text=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=16))
def test_text_comes_back(text: str) -> None:
    one = register(RegisterType.STRING, length=16)
    assert decode(one, encode(one, text)) == text


@given(
    type=st.sampled_from(NUMERIC),
    scale=scales,
    factor=st.sampled_from([1.0, 40.0, 200.0, 4000.0]),
    value=st.floats(-30000, 30000),
)
def test_a_value_comes_back_to_half_a_step(type: RegisterType, scale: float, factor: float, value: float) -> None:
    one = register(type, scale=scale)
    try:
        words = encode(one, value, factor=factor)
    except InputError:
        low, high = {RegisterType.UINT16: (0, 65535), RegisterType.INT16: (-32768, 32767)}.get(type, (0, 2**32 - 1))
        if type is RegisterType.INT32:
            low, high = -(2**31), 2**31 - 1
        assert type is not RegisterType.FLOAT32
        assert not low <= round(value / (scale * factor)) <= high
        return
    back = decode(one, words, factor=factor)
    assert isinstance(back, int | float)
    step = abs(value) * 2**-23 if type is RegisterType.FLOAT32 else abs(scale * factor)
    assert abs(back - value) <= step / 2 * (1 + 1e-9) + 1e-30


@given(type=st.sampled_from(NUMERIC), value=st.one_of(st.just(math.nan), st.just(math.inf), st.just(-math.inf)))
def test_what_is_not_finite_is_refused(type: RegisterType, value: float) -> None:
    with pytest.raises(InputError, match="not a finite number"):
        encode(register(type), value)


def test_out_of_range_names_the_register_the_value_and_the_range() -> None:
    power = register(RegisterType.INT16, name="target_power", scale=0.1, unit="kW")
    with pytest.raises(InputError) as caught:
        encode(power, 4000.0)
    assert str(caught.value) == (
        "register target_power: 4000.0 kW does not fit in int16; it holds -3276.8 to 3276.7 kW"
    )
    with pytest.raises(InputError, match="too large for a float32"):
        encode(register(RegisterType.FLOAT32), 1e39)
    with pytest.raises(InputError, match="longer than its 4 bytes"):
        encode(register(RegisterType.STRING, length=4), "12345")
    with pytest.raises(InputError, match="not ASCII"):
        encode(register(RegisterType.STRING, length=4), "é")
    with pytest.raises(InputError, match="not ASCII"):
        encode(register(RegisterType.STRING, length=4), 7)
    with pytest.raises(InputError, match="not a finite number"):
        encode(register(), "7")


def test_it_rounds_to_the_nearest() -> None:
    whole = register(RegisterType.INT16)
    assert [encode(whole, value)[0] for value in (1.4, 1.6, 2.4)] == [1, 2, 2]
    assert encode(whole, -1.6) == [0x10000 - 2]


# --- blocks


@st.composite
def layouts(draw: st.DrawFn, most: int = 30) -> list[Register]:
    """Registers that do not overlap, in any order."""
    registers, address = [], draw(st.integers(0, 50))
    for number in range(draw(st.integers(1, most))):
        kind = draw(st.sampled_from(RegisterType))
        length = 2 * draw(st.integers(1, 10)) if kind is RegisterType.STRING else None
        order = draw(st.sampled_from(WordOrder)) if kind is not RegisterType.STRING else WordOrder.BIG
        one = register(kind, name=f"r{number}", address=address, length=length, word_order=order)
        registers.append(one)
        address = one.end + draw(st.one_of(st.integers(0, 3), st.integers(0, 150)))
    return draw(st.permutations(registers))


@given(registers=layouts(), max_words=st.integers(10, 125), max_gap=st.integers(0, 125))
def test_every_register_is_read_whole_and_once(registers: list[Register], max_words: int, max_gap: int) -> None:
    blocks = plan_blocks(registers, max_words, max_gap)
    assert sorted(one.name for block in blocks for one in block.registers) == sorted(one.name for one in registers)
    for block in blocks:
        assert 1 <= block.count <= max_words
        end = block.address
        for one in block.registers:
            assert 0 <= one.address - end <= max_gap
            end = one.end
        assert end == block.address + block.count
        assert block.bridged == (sum(one.words for one in block.registers) < block.count)


def fewest_by_trying_all(registers: Sequence[Register], max_words: int, max_gap: int) -> int:
    ordered = sorted(registers, key=lambda one: one.address)

    def allowed(run: Sequence[Register]) -> bool:
        gaps = [after.address - before.end for before, after in pairwise(run)]
        return run[-1].end - run[0].address <= max_words and all(gap <= max_gap for gap in gaps)

    best = [0] + [len(ordered)] * len(ordered)
    for end in range(1, len(ordered) + 1):
        best[end] = min(best[start] + 1 for start in range(end) if allowed(ordered[start:end]))
    return best[-1]


@given(registers=layouts(most=12), max_words=st.integers(10, 60), max_gap=st.integers(0, 60))
def test_no_plan_has_fewer_reads(registers: list[Register], max_words: int, max_gap: int) -> None:
    assert len(plan_blocks(registers, max_words, max_gap)) == fewest_by_trying_all(registers, max_words, max_gap)


def test_a_register_longer_than_a_read_is_refused() -> None:
    with pytest.raises(ValueError, match="16 words, more than a read of 10"):
        plan_blocks([register(RegisterType.STRING, length=32)], max_words=10)


def test_a_slice_is_checked() -> None:
    one, other = register(address=10), register(address=14)
    block = Block(10, 3, (one,))
    assert block.slice(one, [1, 2, 3]) == [1]
    with pytest.raises(DeviceError, match="asked for 3 registers from 10, got 2"):
        block.slice(one, [1, 2])
    with pytest.raises(ValueError, match="not in the block"):
        block.slice(other, [1, 2, 3])


# --- whole blocks at once


@given(registers=layouts(), data=st.data(), ct_ratio=st.sampled_from([1.0, 40.0]))
def test_a_block_decodes_as_its_registers_do(registers: list[Register], data: st.DataObject, ct_ratio: float) -> None:
    scaled = [
        one.model_copy(update={"scale": data.draw(scales), "ratio": Ratio.CT})
        if one.type is not RegisterType.STRING
        else one
        for one in registers
    ]
    for block in plan_blocks(scaled):
        words = data.draw(st.lists(words_of, min_size=block.count, max_size=block.count))
        values: dict[str, float | int | str | None] = {}
        problems: list[str] = []
        BlockDecoder(block, ct_ratio=ct_ratio).decode_into(words, values, problems)
        alone = {
            one.name: decode(one, block.slice(one, words), factor=one.factor(ct_ratio=ct_ratio))
            for one in block.registers
        }
        assert values == alone
        assert len(problems) == sum(value is None for value in alone.values())


def test_what_is_not_plausible_is_missing_and_told() -> None:
    frequency = register(name="frequency", scale=0.01, min=45, max=65)
    decoder = BlockDecoder(Block(100, 1, (frequency,)))
    for raw, value, told in [
        (5000, 50.0, []),
        (4500, 45.0, []),
        (6501, None, ["frequency: 65.01 is above the plausible maximum 65"]),
        (12, None, ["frequency: 0.12 is below the plausible minimum 45"]),
    ]:
        values: dict[str, float | int | str | None] = {}
        problems: list[str] = []
        decoder.decode_into([raw], values, problems)
        assert (values, problems) == ({"frequency": value}, told)
    with pytest.raises(DeviceError, match="asked for 1 registers from 100, got 0"):
        decoder.decode_into([], {}, [])


@given(scale=scales, raw=st.integers(-(2**31), 2**32 - 1))
def test_undo_undoes(scale: float, raw: int) -> None:
    scaling = Scaling.of(register(RegisterType.UINT32, scale=scale))
    assert round(scaling.undo(scaling.apply(raw))) == raw
