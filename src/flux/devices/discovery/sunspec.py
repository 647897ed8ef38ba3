"""The SunSpec marker and common model: who made a device, and by the models that follow what kind it is."""

from collections.abc import Sequence
from dataclasses import dataclass

from flux.devices.codec import text_of
from flux.devices.discovery.asking import Asking
from flux.devices.registers import Function
from flux.devices.transport import DeviceFaultError
from flux.model import DeviceType

_BASES = (40000, 50000, 0)
_MARKER = (0x5375, 0x6E53)  # SunS
_COMMON = 1
_END = 0xFFFF
_MOST_MODELS = 30
_HEAD_WORDS = 70
_TEXTS = {"manufacturer": (4, 16), "model": (20, 16), "firmware_version": (44, 8), "serial_number": (52, 16)}
"""Of each text: where it begins, in words from the marker on, and how many words it has."""


@dataclass(frozen=True, slots=True)
class SunSpec:
    """What the common model says; ``type`` None: neither a meter nor a battery."""

    manufacturer: str | None
    model: str | None
    firmware_version: str | None
    serial_number: str | None
    type: DeviceType | None


async def read_sunspec(asking: Asking, unit: int) -> SunSpec | None:
    """None: no marker at any of the addresses where it may be. Raises DeviceError when the unit does not answer."""
    for base in _BASES:
        try:
            marker = await asking.registers(unit, base, 4, Function.HOLDING)
        except DeviceFaultError as error:
            if error.unit_is_silent:
                raise
            continue
        if tuple(marker[:2]) == _MARKER and marker[2] == _COMMON:
            head = await asking.registers(unit, base, min(marker[3] + 4, _HEAD_WORDS), Function.HOLDING)
            texts = {name: _text(head, *place) for name, place in _TEXTS.items()}
            return SunSpec(**texts, type=await _type(asking, unit, base + 4 + marker[3]))
    return None


def _text(words: Sequence[int], start: int, count: int) -> str | None:
    return text_of(b"".join(word.to_bytes(2, "big") for word in words[start : start + count])) or None


async def _type(asking: Asking, unit: int, address: int) -> DeviceType | None:
    """From model to model: 201 to 219 are meters, 124, 713 and 8xx are storage."""
    for _ in range(_MOST_MODELS):
        try:
            model, length = await asking.registers(unit, address, 2, Function.HOLDING)
        except DeviceFaultError:
            return None
        if model == _END:
            return None
        if 201 <= model <= 219:
            return DeviceType.METER
        if model in (124, 713) or 801 <= model <= 809:
            return DeviceType.BESS
        address += length + 2
    return None
