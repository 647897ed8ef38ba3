"""Faults as text, and which of them hold when."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from flux.devices.simulator import Fault, FaultBoard, FaultKind, parse_fault
from flux.errors import InputError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("M:drop", Fault(device="M", kind=FaultKind.DROP)),
        ("*:garbage,p=0.5", Fault(device="*", kind=FaultKind.GARBAGE, probability=0.5)),
        ("M:delay:2s", Fault(device="M", kind=FaultKind.DELAY, duration=2 * SECOND)),
        ("M:exception:6,for=1m", Fault(device="M", kind=FaultKind.EXCEPTION, number=6, lasts=60 * SECOND)),
        ("M:exception", Fault(device="M", kind=FaultKind.EXCEPTION, number=4)),
        ("M:refuse-writes:3", Fault(device="M", kind=FaultKind.REFUSE_WRITES, number=3)),
        ("M:lag:30s", Fault(device="M", kind=FaultKind.LAG, duration=30 * SECOND)),
        ("M:noise:0.3", Fault(device="M", kind=FaultKind.NOISE, power_kw=0.3)),
        ("M:tripped", Fault(device="M", kind=FaultKind.TRIPPED)),
        ("M:blocks:0", Fault(device="M", kind=FaultKind.BLOCKS, number=0)),
        ("M:reset, after=10s", Fault(device="M", kind=FaultKind.RESET, after=10 * SECOND)),
        ("M:restart", Fault(device="M", kind=FaultKind.RESTART)),
    ],
)
def test_faults_as_text(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("M", "'' is no kind of fault; write DEVICE:KIND, KIND one of drop, delay"),
        ("M:dorp", "'dorp' is no kind of fault"),
        (":drop", "needs a device before the colon"),
        ("M:delay", "delay needs an argument, like delay:10s"),
        ("M:delay:2", "'2' is not a duration"),
        ("M:exception:0", "exception code 0 is outside 1 to 255"),
        ("M:exception:x", "invalid literal"),
        ("M:drop:2s", "drop takes no argument, '2s' was given"),
        ("M:drop,p=2", "p=2 is outside 0 to 1"),
        ("M:drop,until=2s", "'until=2s' is no option"),
        ("M:blocks:-1", "-1 blocks cannot be available"),
        ("M:noise", "noise needs an argument, like noise:0.3"),
        ("M:noise:0", "a noise of 0 kW is no power above 0"),
        ("M:noise:nan", "a noise of nan kW"),
    ],
)
def test_a_wrong_fault_is_refused_with_what_is_right(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_fault(text)


def held(board: FaultBoard, device: str, kind: FaultKind, after_s: float) -> bool:
    return board.holding(device, (kind,), NOW + after_s * SECOND) is not None


def test_a_fault_holds_from_its_beginning_to_its_end() -> None:
    board = FaultBoard()
    board.add(parse_fault("M:drop,after=10s,for=5s"), NOW)
    assert [held(board, "M", FaultKind.DROP, s) for s in (0, 9.9, 10, 14.9, 15)] == [False, False, True, True, False]
    assert not held(board, "N", FaultKind.DROP, 12)
    assert not held(board, "M", FaultKind.DELAY, 12)
    board.forget_ended(NOW + 15 * SECOND)
    assert board.faults == ()


def test_a_fault_with_a_probability_hits_that_share_of_requests() -> None:
    board = FaultBoard(random.Random(1))
    board.add(parse_fault("*:drop,p=0.25"), NOW)
    hits = sum(held(board, "M", FaultKind.DROP, 0) for _ in range(4000))
    assert 900 < hits < 1100


def test_faults_are_cleared_by_device() -> None:
    board = FaultBoard()
    for text in ("M:drop", "N:drop", "M:lag:1s"):
        board.add(parse_fault(text), NOW)
    board.clear("M")
    assert list(board.faults) == [parse_fault("N:drop")]
    board.clear()
    assert list(board.faults) == []


def test_a_reset_happens_once_and_not_before_its_time() -> None:
    board = FaultBoard()
    board.add(parse_fault("M:reset,after=2s"), NOW)
    assert board.take_due_once(NOW + SECOND) == []
    assert board.take_due_once(NOW + 2 * SECOND) == [parse_fault("M:reset,after=2s")]
    assert board.take_due_once(NOW + 3 * SECOND) == []


def test_a_group_is_replaced_by_what_changed_in_it() -> None:
    board = FaultBoard()
    board.add(parse_fault("N:drop"), NOW)
    first = [parse_fault("M:drop,for=10s"), parse_fault("M:reset")]
    board.replace("file", first, NOW)
    assert len(board.take_due_once(NOW)) == 1
    later = NOW + 5 * SECOND
    board.replace("file", [*first, parse_fault("M:delay:1s")], later)
    assert board.take_due_once(later) == [], "a reset that is still listed is no new one"
    assert not held(board, "M", FaultKind.DROP, 10), "it went on from when it began"
    board.replace("file", [], later)
    assert board.faults == (parse_fault("N:drop"),)
    board.replace("file", [parse_fault("M:reset")], later)
    assert len(board.take_due_once(later)) == 1
