"""A simulated device's registers without a socket, for a driver in fast time."""

from collections.abc import Sequence

from flux.devices.registers import Function
from flux.devices.simulator.bank import ModbusFaultError
from flux.devices.simulator.device import SimulatedDevice
from flux.devices.simulator.world import SimulatedSite
from flux.devices.transport import DeviceFaultError, DeviceTimeoutError


class MemoryTransport:
    """A device's registers without a socket; the same protocol as a connection (``RegisterTransport``)."""

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device

    async def read(
        self, unit: int, address: int, count: int, *, function: Function = Function.HOLDING
    ) -> Sequence[int]:
        """The registers as they are now; raises :class:`flux.errors.DeviceError` as a device would refuse."""
        self._check(unit)
        try:
            return self._device.bank.read(function, address, count)
        except ModbusFaultError as fault:
            raise DeviceFaultError(fault.code, f"{self._device.name}: read of {count} at {address}") from None

    async def write(self, unit: int, address: int, words: Sequence[int]) -> None:
        """Write whole registers, checked as over Modbus."""
        self._check(unit)
        try:
            self._device.bank.write(address, words)
        except ModbusFaultError as fault:
            raise DeviceFaultError(fault.code, f"{self._device.name}: write of {len(words)} at {address}") from None

    def _check(self, unit: int) -> None:
        if unit != self._device.unit:
            raise DeviceTimeoutError(f"{self._device.name} is unit {self._device.unit}; unit {unit} does not answer")


def memory_transport(site: SimulatedSite, name: str) -> MemoryTransport:
    """The transport of one device of a site; its registers show the site's present."""
    return MemoryTransport(site.device(name))
