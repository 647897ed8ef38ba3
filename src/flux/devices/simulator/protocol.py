"""Modbus messages as a device answers them: functions 3, 4, 6, 16 and 43/14. Pure: a message in, a message out.

The same simulator answers tests and benchmarks of Flux's own client, so that nothing here is shared with that client.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from flux.devices.registers import Function
from flux.devices.simulator.bank import ILLEGAL_ADDRESS, ILLEGAL_FUNCTION, ILLEGAL_VALUE, ModbusFaultError
from flux.devices.simulator.device import SimulatedDevice

READ_HOLDING, READ_INPUT, WRITE_ONE, WRITE_MANY, IDENTIFY = 3, 4, 6, 16, 43
WRITES = frozenset({WRITE_ONE, WRITE_MANY})
GATEWAY_NO_RESPONSE = 11

_TABLES = {READ_HOLDING: Function.HOLDING, READ_INPUT: Function.INPUT}
_PAIR = struct.Struct(">HH")
_IDENTIFICATION = 14


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back, and what it was about: for the reply log."""

    message: bytes
    function: int
    address: int = 0
    count: int = 0
    words: Sequence[int] = ()
    exception: int | None = None


def refusal(function: int, code: int, address: int = 0, count: int = 0) -> Answer:
    """A Modbus exception."""
    return Answer(bytes((function | 0x80, code)), function, address, count, exception=code)


def place_of(message: bytes) -> tuple[int, int]:
    """Address and count that a request names, (0, 0) where it names none."""
    if len(message) < 5 or message[0] not in (READ_HOLDING, READ_INPUT, WRITE_ONE, WRITE_MANY):
        return 0, 0
    address, second = _PAIR.unpack_from(message, 1)
    return address, 1 if message[0] == WRITE_ONE else second


def answer(device: SimulatedDevice, message: bytes) -> Answer:
    """Carry out a request; what the device refuses comes back as an exception message."""
    function = message[0]
    address, count = place_of(message)
    try:
        if function in _TABLES:
            return _read(device, message, function, address, count)
        if function in WRITES:
            return _write(device, message, function, address, count)
        if function == IDENTIFY:
            return Answer(_identification(device, message), function)
    except ModbusFaultError as fault:
        return refusal(function, fault.code, address, count)
    return refusal(function, ILLEGAL_FUNCTION)


def _read(device: SimulatedDevice, message: bytes, function: int, address: int, count: int) -> Answer:
    if len(message) != 5:
        raise ModbusFaultError(ILLEGAL_VALUE)
    words = device.bank.read(_TABLES[function], address, count)
    return Answer(struct.pack(f">BB{count}H", function, 2 * count, *words), function, address, count, words)


def _write(device: SimulatedDevice, message: bytes, function: int, address: int, count: int) -> Answer:
    if function == WRITE_ONE:
        if len(message) != 5:
            raise ModbusFaultError(ILLEGAL_VALUE)
        words = struct.unpack_from(">H", message, 3)
    else:
        if len(message) != 6 + 2 * count or message[5] != 2 * count:
            raise ModbusFaultError(ILLEGAL_VALUE)
        words = struct.unpack_from(f">{count}H", message, 6)
    device.bank.write(address, words)
    return Answer(message[:5], function, address, count, words)


def _identification(device: SimulatedDevice, message: bytes) -> bytes:
    """Read device identification: vendor, product code, revision, and in the regular list the model and name."""
    if len(message) != 4 or message[1] != _IDENTIFICATION:
        raise ModbusFaultError(ILLEGAL_FUNCTION)
    code, first = message[2], message[3]
    template = device.template
    model = template.model or template.name
    objects = {0: template.manufacturer, 1: model, 2: device.config.firmware_version, 4: model, 5: device.name}
    if code == 4:
        if first not in objects:
            raise ModbusFaultError(ILLEGAL_ADDRESS)
        chosen = {first: objects[first]}
    elif code in (1, 2, 3):
        chosen = {key: text for key, text in objects.items() if key >= first and (key <= 2 or code > 1)}
    else:
        raise ModbusFaultError(ILLEGAL_VALUE)
    body = b"".join(bytes((key, len(text))) + text for key, text in _ascii(chosen).items())
    return bytes((IDENTIFY, _IDENTIFICATION, code, 0x82, 0, 0, len(chosen))) + body


def _ascii(objects: dict[int, str]) -> dict[int, bytes]:
    return {key: text.encode("ascii", "replace")[:40] for key, text in objects.items()}
