"""What a driver needs of a connection, and the ways in which a device lets it down.

::

    DeviceError (flux.errors)
    ├── DeviceTimeoutError        no answer in time
    ├── DeviceUnreachableError    no connection, or it was lost before the answer came
    ├── BadReplyError             an answer that is no answer to what was asked; the connection is dropped
    └── DeviceFaultError          the device refused, with a Modbus exception code
"""

from collections.abc import Sequence
from typing import Protocol

from flux.devices.registers import Function
from flux.errors import DeviceError

_SILENT_UNIT = (10, 11)  # a gateway's words for a unit that does not answer it
_FAULTS = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "device failure",
    5: "acknowledged, not done yet",
    6: "device busy",
    7: "negative acknowledge",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "device behind the gateway does not answer",
}


class DeviceTimeoutError(DeviceError):
    """The device did not answer in time."""


class DeviceUnreachableError(DeviceError):
    """There is no connection to the device's host and port, or it was lost before the answer came."""


class BadReplyError(DeviceError):
    """What came back does not answer what was asked."""


class DeviceFaultError(DeviceError):
    """The device answered with a Modbus exception; ``code`` says which."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(f"{what}: the device answered with exception {code} ({_FAULTS.get(code, 'unknown')})")
        self.code = code

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later: the device or its gateway is busy or not well."""
        return self.code not in (1, 2, 3, 7)

    @property
    def refuses_address(self) -> bool:
        """Whether the device does not have the addresses that were asked for; some say so with 3."""
        return self.code in (2, 3)

    @property
    def unit_is_silent(self) -> bool:
        """Whether a gateway says that the unit behind it does not answer."""
        return self.code in _SILENT_UNIT


def says_unit_is_silent(message: bytes) -> bool:
    """Whether a reply is a gateway's that the unit behind it does not answer."""
    return len(message) > 1 and bool(message[0] & 0x80) and message[1] in _SILENT_UNIT


class RegisterTransport(Protocol):
    """Reads and writes the registers of units; a TCP connection or, in fast time, a simulated device in memory.

    Both methods raise :class:`flux.errors.DeviceError` when the device did not do as asked.
    """

    async def read(
        self, unit: int, address: int, count: int, *, function: Function = Function.HOLDING
    ) -> Sequence[int]:
        """``count`` registers of 16 bits from ``address`` on."""
        ...

    async def write(self, unit: int, address: int, words: Sequence[int]) -> None:
        """Put ``words`` into the holding registers from ``address`` on; returns when the device acknowledged it."""
        ...
