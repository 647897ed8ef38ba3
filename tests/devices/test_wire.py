"""The connection's protocol, fed by hand: any bytes in any pieces."""

import asyncio
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.pdu import ModbusPDU

from flux.devices.registers import Function
from flux.devices.transport import BadReplyError, DeviceFaultError
from flux.devices.wire import Wire, read_request
from flux.errors import DeviceError

REPLY = bytes.fromhex("0007 0000 0007 05 03 04 1234 5678")
"""Transaction 7, unit 5, two registers."""


class Transport(asyncio.Transport):
    """Remembers what was written; aborting it loses the connection, as it does on a socket."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self.wire = wire
        self.sent = b""

    def write(self, data: Any) -> None:
        self.sent += data

    def abort(self) -> None:
        self.wire.connection_lost(None)


def ask(pieces: Iterable[bytes], late: list[int] | None = None) -> tuple["asyncio.Future[ModbusPDU]", Wire, list[str]]:
    """Ask unit 5 for two registers in transaction 7; then ``pieces`` come in."""
    lost: list[str] = []
    foreign = [] if late is None else late

    async def run() -> tuple["asyncio.Future[ModbusPDU]", Wire]:
        wire = Wire("peer", lambda _, why: lost.append(why), lambda tid, _: foreign.append(tid))
        wire.connection_made(Transport(wire))
        request = read_request(5, 100, 2, Function.HOLDING)
        request.transaction_id = 7
        reply = wire.send(request)
        for piece in pieces:
            if wire.open:
                wire.data_received(piece)
        return reply, wire

    reply, wire = asyncio.run(run())
    return reply, wire, lost


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(ends)]


@given(places=st.lists(st.integers(0, 200), max_size=12), late=st.integers(0, 3))
def test_the_reply_is_found_however_it_is_cut_and_whatever_was_late(places: list[int], late: int) -> None:
    other = b"\x00\x06" + REPLY[2:]
    foreign: list[int] = []
    reply, wire, lost = ask(cut(other * late + REPLY, places), foreign)
    assert list(reply.result().registers) == [0x1234, 0x5678]
    assert (foreign, wire.frames, lost) == ([6] * late, late + 1, [])
    assert not wire.mid_frame


@given(pieces=st.lists(st.binary(max_size=40), max_size=10))
def test_bytes_of_any_kind_never_raise_and_are_never_taken_for_a_reply(pieces: list[bytes]) -> None:
    reply, wire, lost = ask(pieces)
    if not reply.done():
        assert wire.open
        return
    error = reply.exception()
    if error is None:  # hypothesis wrote a frame that answers
        assert b"\x00\x07\x00\x00" in b"".join(pieces)
    else:
        assert isinstance(error, DeviceError)
        assert wire.open == (not lost) == isinstance(error, DeviceFaultError)


@given(place=st.integers(0, len(REPLY) - 1), value=st.integers(0, 255))
def test_a_reply_with_one_byte_wrong_is_taken_only_if_it_is_in_the_data(place: int, value: int) -> None:
    spoilt = REPLY[:place] + bytes([value]) + REPLY[place + 1 :]
    reply, _, _ = ask([spoilt])
    in_data = place >= 9
    taken = reply.done() and reply.exception() is None
    assert taken == (in_data or spoilt == REPLY)
    if reply.done() and reply.exception() is not None:
        assert isinstance(reply.exception(), DeviceError)


@pytest.mark.parametrize("code", [1, 4, 11])
def test_an_exception_leaves_the_connection_open(code: int) -> None:
    reply, wire, _ = ask([b"\x00\x07\x00\x00\x00\x03\x05\x83" + bytes([code])])
    error = reply.exception()
    assert isinstance(error, DeviceFaultError)
    assert error.code == code
    assert wire.open


def test_garbage_closes_it_with_the_reason() -> None:
    reply, wire, lost = ask([b"HTTP/1.1 400"])
    assert isinstance(reply.exception(), BadReplyError)
    assert str(reply.exception()) == "peer: what came is not Modbus: 48 54 54 50 2f 31 2e 31 20 34 30 30"
    assert not wire.open
    assert lost == ["what came is not Modbus: 48 54 54 50 2f 31 2e 31 20 34 30 30"]
