"""What writes to a simulated battery's control registers do to it, as its template's ``control`` section says."""

from flux.devices.codec import Value
from flux.devices.control import Step
from flux.devices.simulator.config import BatteryConfig
from flux.devices.simulator.physics import Battery
from flux.devices.template import DeviceTemplate


class BatteryCommands:
    """The command interface of one battery.

    A set-point counts only while the device is in direct control (where its template has a mode), and until the
    command timeout (where it has one). With a heartbeat, only a heartbeat that *changes* shows that the commander is
    alive; without one, each set-point does.
    """

    def __init__(self, battery: Battery, template: DeviceTemplate, config: BatteryConfig) -> None:
        self._battery = battery
        self._control = template.control
        self._config = config
        self._step_of = {name: step for step, name in self._control.registers.items()} if self._control else {}
        self._units = {register.name: register.unit for register in template.registers}
        self.heartbeat: int | None = None
        self.power_on()

    @property
    def register_names(self) -> tuple[str, ...]:
        """The registers that a command writes."""
        return tuple(self._step_of)

    def power_on(self) -> None:
        """What a device that has just started knows: no command, its own ramps, its default timeout."""
        battery, control = self._battery, self._control
        has_timeout = control is not None and control.timeout is not None
        battery.set_point_kw = 0.0
        battery.following = False
        battery.timeout_s = self._config.default_timeout.total_seconds() if has_timeout else None
        battery.command_age_s = 0.0
        battery.ramp_up_kw_s = battery.ramp_down_kw_s = self._config.ramp_kw_s
        self.heartbeat = None

    def written(self, name: str, value: Value) -> None:
        """A value (engineering units) was written to the register ``name``."""
        step = self._step_of.get(name)
        if step is None or isinstance(value, str) or self._control is None:
            return
        battery, control = self._battery, self._control
        match step:
            case Step.POWER:
                battery.set_point_kw = float(value)
                if control.heartbeat is None:
                    battery.command_age_s = 0.0
                if control.mode is None:
                    battery.following = True
            case Step.HEARTBEAT:
                if int(value) != self.heartbeat:
                    self.heartbeat = int(value)
                    battery.command_age_s = 0.0
            case Step.MODE:
                battery.following = control.mode is not None and value == control.mode.value
            case Step.TIMEOUT:
                battery.timeout_s = float(value)
            case Step.RAMP_UP:
                battery.ramp_up_kw_s = self._ramp_kw_s(name, value)
            case Step.RAMP_DOWN:
                battery.ramp_down_kw_s = self._ramp_kw_s(name, value)
            case Step.ALWAYS_ACTIVE:
                pass  # keeps the inverters running at 0 kW, which nothing outside can see

    def _ramp_kw_s(self, name: str, value: float) -> float:
        """0 or less: the device's own."""
        ramp = value / 1000 if self._units[name] == "W/s" else value
        return ramp if ramp > 0 else self._config.ramp_kw_s
