"""What a simulated site is made of: its devices, its load and its sun; read from YAML or made in code.

Checked whole: a template that does not exist, a battery without its figures or two devices on one address are refused
with the field's name before anything starts.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from flux.config import load_yaml
from flux.devices.simulator.physics import BatterySpec
from flux.devices.simulator.profiles import Constant, Profile, SyntheticLoad, SyntheticSolar, load_csv_profile
from flux.devices.template import DeviceTemplate, builtin_template, load_template
from flux.errors import InputError
from flux.model import DeviceName, DeviceType, Duration, MeterType, SiteCode, parse_duration


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"{name!r} is no time zone; write it like Europe/London") from None
    return name


TimezoneName = Annotated[str, AfterValidator(_zone)]


SourceT = TypeVar("SourceT", "LoadConfig", "SolarConfig")


class BatteryConfig(_Section):
    """A battery. Limits are magnitudes; the efficiency applies to charging, discharging is lossless."""

    capacity_kwh: float = Field(gt=0)
    charge_limit_kw: float = Field(ge=0)
    discharge_limit_kw: float = Field(ge=0)
    charge_efficiency: float = Field(default=0.9, gt=0, le=1)
    ramp_kw_s: float = Field(default=100.0, gt=0, description="fastest change of power that it is capable of")
    blocks: int = Field(default=1, ge=1, le=65535, description="inverter blocks")
    soe_pct: float = Field(default=50.0, ge=0, le=100, description="state of energy when it is first started")
    default_timeout: Duration = Field(
        default=parse_duration("60s"),
        gt=parse_duration("0s"),
        description="command timeout until one is written, where the template has a timeout",
    )

    @property
    def spec(self) -> BatterySpec:
        return BatterySpec(
            capacity_kwh=self.capacity_kwh,
            charge_limit_kw=self.charge_limit_kw,
            discharge_limit_kw=self.discharge_limit_kw,
            charge_efficiency=self.charge_efficiency,
            ramp_kw_s=self.ramp_kw_s,
            blocks=self.blocks,
        )


class DeviceConfig(_Section):
    """One simulated device. ``template`` is the name of a built-in one or a file, relative to the config's folder."""

    name: DeviceName
    type: DeviceType
    template: str
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535, description="0: any free one")
    unit: int = Field(default=1, ge=0, le=255)
    serial_number: str | None = Field(default=None, max_length=32)
    firmware_version: str = Field(default="1.0.0", max_length=32)
    battery: BatteryConfig | None = None
    meter_type: MeterType | None = None
    batteries: tuple[DeviceName, ...] | None = Field(default=None, description="which ones a storage meter meters")
    ct_ratio: float = Field(default=1.0, gt=0)
    vt_ratio: float = Field(default=1.0, gt=0)
    nominal_voltage_v: float = Field(default=400.0, gt=0, description="line to line, primary side")
    invert: bool = Field(default=False, description="mounted the wrong way round: it counts imports as exports")
    max_power_kw: float | None = Field(
        default=None, gt=0, description="of a meter; a battery's follows from its limits"
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.type is DeviceType.BESS and self.battery is None:
            raise ValueError(f"{self.name} is a bess and needs a `battery` section")
        if self.type is DeviceType.METER and (self.meter_type is None or self.battery is not None):
            raise ValueError(f"{self.name} is a meter: it needs a `meter_type` and takes no `battery` section")
        if self.batteries is not None and self.meter_type is not MeterType.STORAGE:
            raise ValueError(f"{self.name}: `batteries` is for storage meters only")
        return self


class LoadConfig(_Section):
    """The site's load: synthetic of about ``mean_kw``, or the energies of a ``file``, or ``constant_kw``."""

    mean_kw: float = Field(default=30.0, ge=0)
    noise: float = Field(default=1.0, ge=0, le=2)
    constant_kw: float | None = Field(default=None, ge=0)
    file: Path | None = None
    scale: float = Field(default=1.0, ge=0)
    phases: tuple[float, float, float] = (0.36, 0.33, 0.31)
    power_factor: float = Field(default=0.97, gt=0, le=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if min(self.phases) < 0 or abs(sum(self.phases) - 1) > 1e-9:
            raise ValueError(f"phases {self.phases} must be shares of 0 or more that add up to 1")
        _one_source(self.file, self.constant_kw)
        return self


class SolarConfig(_Section):
    """The site's sun: synthetic of ``peak_kw``, or the energies of a ``file``, or ``constant_kw``."""

    peak_kw: float = Field(default=0.0, ge=0)
    latitude_deg: float = Field(default=51.5, ge=-90, le=90)
    longitude_deg: float = Field(default=-0.1, ge=-180, le=180)
    constant_kw: float | None = Field(default=None, ge=0)
    file: Path | None = None
    scale: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _one_source(self.file, self.constant_kw)
        return self


def _one_source(file: Path | None, constant_kw: float | None) -> None:
    if file is not None and constant_kw is not None:
        raise ValueError("give `file` or `constant_kw`, not both")


class SimConfig(_Section):
    """A simulated site; the same seed gives the same load and the same clouds."""

    site: SiteCode
    seed: int = Field(default=1, ge=0)
    timezone: TimezoneName = "Europe/London"
    resolution: int = Field(default=20, ge=1, le=3600, description="seconds that synthetic load and sun stay the same")
    load: LoadConfig = LoadConfig()
    solar: SolarConfig = SolarConfig()
    devices: tuple[DeviceConfig, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = Counter(device.name for device in self.devices)
        for name, count in names.items():
            if count > 1:
                raise ValueError(f"{count} devices are named {name}")
        places = Counter((device.host, device.port, device.unit) for device in self.devices if device.port)
        for (host, port, unit), count in places.items():
            if count > 1:
                raise ValueError(f"{count} devices are at unit {unit} of {host}:{port}; give each a port or a unit")
        batteries = {device.name for device in self.devices if device.type is DeviceType.BESS}
        for device in self.devices:
            for name in device.batteries or ():
                if name not in batteries:
                    raise ValueError(f"{device.name} meters {name}, which is no bess here")
        return self

    def load_profile(self) -> Profile:
        """The load (kW) over time; reads the file when there is one."""
        if self.load.file is not None:
            return load_csv_profile(self.load.file, self.load.scale, ZoneInfo(self.timezone))
        if self.load.constant_kw is not None:
            return Constant(self.load.constant_kw)
        return SyntheticLoad(
            mean_kw=self.load.mean_kw * self.load.scale,
            seed=self.seed,
            noise=self.load.noise,
            resolution_s=self.resolution,
            timezone=ZoneInfo(self.timezone),
        )

    def solar_profile(self) -> Profile:
        """What the sun gives (kW, 0 or more) over time; reads the file when there is one."""
        if self.solar.file is not None:
            return load_csv_profile(self.solar.file, self.solar.scale, ZoneInfo(self.timezone))
        if self.solar.constant_kw is not None:
            return Constant(self.solar.constant_kw)
        return SyntheticSolar(
            peak_kw=self.solar.peak_kw * self.solar.scale,
            seed=self.seed,
            latitude_deg=self.solar.latitude_deg,
            longitude_deg=self.solar.longitude_deg,
            resolution_s=self.resolution,
        )

    def template_of(
        self, device: DeviceConfig, templates: Mapping[str, DeviceTemplate] | None = None
    ) -> DeviceTemplate:
        """The device's template: one of those given, a file, or a built-in one; of the device's own type."""
        template = (templates or {}).get(device.template)
        if template is None:
            template = load_template(Path(device.template)) if _is_file(device) else builtin_template(device.template)
        if template.type is not device.type:
            raise InputError(f"{device.name} is a {device.type}; template {template.name} is for a {template.type}")
        return template


def load_sim_config(path: Path) -> SimConfig:
    """Read a YAML file; files that it names are relative to its folder. The error names file, line and field."""
    config = load_yaml(path).parse(SimConfig)
    devices = tuple(
        device.model_copy(update={"template": str(path.parent / device.template)}) if _is_file(device) else device
        for device in config.devices
    )
    load, solar = _beside(config.load, path), _beside(config.solar, path)
    return config.model_copy(update={"load": load, "solar": solar, "devices": devices})


def _is_file(device: DeviceConfig) -> bool:
    return device.template.endswith((".yaml", ".yml"))


def _beside(source: SourceT, path: Path) -> SourceT:
    return source if source.file is None else source.model_copy(update={"file": path.parent / source.file})
