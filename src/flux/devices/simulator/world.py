"""A simulated site as a whole: time passes, devices have registers, and its state can be kept and put back.

Two ways to use it. In fast time (backfill, tests): ``step(to)`` and read; registers show the present at once. Live,
behind a server: ``publish_on_demand = False``, and after each ``step`` the state is made safe on disk before
``publish()`` lets anybody see it, so that no counter is ever seen that a crash could take back.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from flux.devices.codec import Value
from flux.devices.simulator.bank import RegisterBank
from flux.devices.simulator.commands import BatteryCommands
from flux.devices.simulator.config import DeviceConfig, SimConfig
from flux.devices.simulator.device import RegisterWrite, SimulatedDevice
from flux.devices.simulator.physics import Battery, LoadShape, Meter, MeterTap, SitePhysics
from flux.devices.simulator.profiles import Recent, from_us, to_us
from flux.devices.simulator.values import DeviceView
from flux.devices.template import DeviceTemplate
from flux.errors import InputError, NotFoundError
from flux.model import MeterType

STATE_VERSION = 1


class SimulatedSite:
    """A site of simulated devices, at one instant of simulated time."""

    def __init__(
        self, config: SimConfig, start: datetime, templates: Mapping[str, DeviceTemplate] | None = None
    ) -> None:
        """Raises :class:`InputError` for a template or file that is wrong or missing."""
        self.config = config
        self.publish_on_demand = True
        self._time_us = to_us(start)
        self._load = Recent(config.load_profile())
        self._solar = Recent(config.solar_profile())
        self._shape = LoadShape(phases=config.load.phases, power_factor=config.load.power_factor)
        known = dict(templates or {})
        for device in config.devices:
            known[device.template] = config.template_of(device, known)  # files are read once for all of a kind
        self._devices = {c.name: self._device(c, config.template_of(c, known)) for c in config.devices}
        self._physics = self._wired()
        self._unpublished = False
        self.publish()

    @property
    def devices(self) -> tuple[SimulatedDevice, ...]:
        return tuple(self._devices.values())

    @property
    def time(self) -> datetime:
        """How far the physics have come (UTC)."""
        return from_us(self._time_us)

    @property
    def load_kw(self) -> float:
        return self._load.at(self._time_us)[0]

    @property
    def solar_kw(self) -> float:
        return self._solar.at(self._time_us)[0]

    def device(self, name: str) -> SimulatedDevice:
        try:
            return self._devices[name]
        except KeyError:
            raise NotFoundError(f"no simulated device {name!r}; there are {', '.join(self._devices)}") from None

    def battery(self, name: str) -> Battery:
        """The battery behind a device."""
        thing = self.device(name).thing
        if not isinstance(thing, Battery):
            raise NotFoundError(f"{name} is a meter, not a battery")
        return thing

    def meter(self, name: str) -> Meter:
        """The meter behind a device: exact counters, before any register rounds them."""
        thing = self.device(name).thing
        if not isinstance(thing, Meter):
            raise NotFoundError(f"{name} is a battery, not a meter")
        return thing

    def step(self, to: datetime) -> None:
        """Let time pass until ``to``, exactly, over any length; a time in the past changes nothing."""
        to_time_us = to_us(to)
        while self._time_us < to_time_us:
            load_kw, load_until = self._load.at(self._time_us)
            solar_kw, solar_until = self._solar.at(self._time_us)
            until = min(to_time_us, load_until, solar_until)
            self._physics.advance((until - self._time_us) / 1e6, load_kw, solar_kw)
            self._time_us = until
        self._unpublished = True

    def publish(self) -> None:
        """Let the registers show the present."""
        for device in self._devices.values():
            device.publish(self._time_us)
        self._unpublished = False

    def set_available_blocks(self, name: str, blocks: int) -> None:
        """Take inverter blocks of a battery out of service, or back in."""
        battery = self.battery(name)
        if not 0 <= blocks <= battery.spec.blocks:
            raise InputError(f"{name} has {battery.spec.blocks} blocks, {blocks} cannot be available")
        battery.available_blocks = blocks

        self._unpublished = True

    def reset_counters(self, name: str) -> None:
        """Set a meter's counters to zero, as happens when one is replaced."""
        self.meter(name).reset()
        self._unpublished = True

    def restart_device(self, name: str) -> None:
        """The device starts anew: what was commanded is lost, counters and stored energy stay."""
        self.device(name).restart()
        self._unpublished = True

    def set_lag(self, name: str, lag: timedelta) -> None:
        """Let a device's registers show what it was ``lag`` ago; it starts from what they show now."""
        self.device(name).lag = lag

    def set_noise(self, name: str, power_kw: float) -> None:
        """Let the powers that a device shows be off by so much (one standard deviation), the same with each run."""
        self.device(name).noise_kw = power_kw

    def set_tripped(self, name: str, tripped: bool) -> None:
        """Let a battery rest whatever it is commanded, without showing it in its target."""
        if self.battery(name).tripped is not tripped:
            self.battery(name).tripped = tripped
            self._unpublished = True

    def state(self) -> dict[str, Any]:
        """Everything that must outlive a restart, as plain JSON values."""
        devices = {name: device.state() for name, device in self._devices.items()}
        return {"version": STATE_VERSION, "site": self.config.site, "time_us": self._time_us, "devices": devices}

    def restore(self, state: Mapping[str, Any], now: datetime) -> None:
        """Go on at ``now`` from what :meth:`state` said; the time between is not simulated, counters stay.

        Commands have aged meanwhile. Devices that the state doesn't know start as new. Raises :class:`InputError`.
        """
        if state.get("version") != STATE_VERSION or state.get("site") != self.config.site:
            raise InputError(
                f"this is the state of site {state.get('site')!r} in version {state.get('version')!r}; "
                f"site {self.config.site!r} in version {STATE_VERSION} is needed"
            )
        try:
            away_s = max((to_us(now) - int(state["time_us"])) / 1e6, 0.0)
            for name, kept in state["devices"].items():
                if name in self._devices:
                    self._devices[name].restore(kept, away_s)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"the state cannot be used ({type(error).__name__}: {error})") from None
        self._time_us = to_us(now)
        self.publish()

    def _device(self, config: DeviceConfig, template: DeviceTemplate) -> SimulatedDevice:
        device = SimulatedDevice(config, template, self._thing(config), config.host, config.port)
        if isinstance(device.thing, Battery) and config.battery is not None:
            device.commands = BatteryCommands(device.thing, template, config.battery)
        device.bank = RegisterBank(
            template,
            partial(self._shown, device),
            partial(self._written, device),
            texts={
                "serial_number": config.serial_number or config.name,
                "firmware_version": config.firmware_version,
            },
            vt_ratio=config.vt_ratio,
            ct_ratio=config.ct_ratio,
        )
        device.publish(self._time_us)
        return device

    def _thing(self, config: DeviceConfig) -> Battery | Meter:
        if config.battery is None:
            return Meter(self._shape)
        spec = config.battery.spec
        energy_kwh = spec.capacity_kwh * config.battery.soe_pct / 100
        return Battery(spec, energy_kwh, available_blocks=spec.blocks)

    def _wired(self) -> SitePhysics:
        """Connect each meter to what it meters; a storage meter without ``batteries`` has the battery of its rank."""
        batteries = [d for d in self._devices.values() if isinstance(d.thing, Battery)]
        index = {device.name: number for number, device in enumerate(batteries)}
        storage = [d for d in self._devices.values() if d.config.meter_type is MeterType.STORAGE]
        taps = []
        for device in self._devices.values():
            if not isinstance(device.thing, Meter):
                continue
            kind = device.config.meter_type
            seen: Sequence[int] = tuple(index.values()) if kind is MeterType.GRID else ()
            if kind is MeterType.STORAGE:
                seen = _storage_batteries(device, storage, index)
            sees_load = kind in (MeterType.GRID, MeterType.LOAD)
            sees_solar = kind in (MeterType.GRID, MeterType.GENERATION)
            taps.append(MeterTap(device.thing, sees_load, sees_solar, tuple(seen)))
        return SitePhysics([d.thing for d in batteries if isinstance(d.thing, Battery)], taps)

    def _shown(self, device: SimulatedDevice) -> DeviceView:
        if self.publish_on_demand and self._unpublished:
            self.publish()
        return device.shown

    def _written(self, device: SimulatedDevice, name: str, value: Value) -> None:
        device.register_log.append(RegisterWrite(self.time, name, value))
        if device.commands is not None:
            device.commands.written(name, value)
            self._unpublished = True


def _storage_batteries(
    device: SimulatedDevice, storage: Sequence[SimulatedDevice], index: Mapping[str, int]
) -> tuple[int, ...]:
    if device.config.batteries is not None:
        return tuple(index[name] for name in device.config.batteries)
    if len(storage) == 1:
        return tuple(index.values())
    rank = [one.name for one in storage].index(device.name)
    return (rank,) if rank < len(index) else ()
