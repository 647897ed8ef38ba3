"""The site that `flux demo` and `flux sim` show when they are given nothing else."""

from flux.devices.simulator.config import BatteryConfig, DeviceConfig, LoadConfig, SimConfig, SolarConfig
from flux.model import DeviceType, MeterType

_METERS = (MeterType.GRID, MeterType.GENERATION, MeterType.LOAD)


def demo_site(site: str = "WLCE", *, host: str = "127.0.0.1", port: int = 15020, seed: int = 1) -> SimConfig:
    """A battery and four meters, each at a port of its own from ``port`` on (0: any free ones).

    80 homes under 500 kWp of solar: even a dull winter's day has a surplus at noon to charge from, and each evening
    has a peak that the battery can carry, so that every day shows export avoidance and import avoidance.
    """
    ports = iter([0] * 5 if port == 0 else range(port, port + 5))
    battery = DeviceConfig(
        name=f"{site}-BESS-01",
        type=DeviceType.BESS,
        template="tesla_powerpack",
        host=host,
        port=next(ports),
        serial_number="TG-SIM-0001",
        firmware_version="sim-1.0",
        battery=BatteryConfig(
            capacity_kwh=500, charge_limit_kw=100, discharge_limit_kw=105, charge_efficiency=0.9, blocks=10
        ),
    )
    meters = [_meter(site, kind, f"{site}-{kind.value.upper()}-METER", host, next(ports)) for kind in _METERS]
    storage = _meter(site, MeterType.STORAGE, f"{site}-BESS-METER", host, next(ports))
    return SimConfig(
        site=site,
        seed=seed,
        load=LoadConfig(mean_kw=30),
        solar=SolarConfig(peak_kw=500),
        devices=(battery, *meters, storage),
    )


def _meter(site: str, kind: MeterType, name: str, host: str, port: int) -> DeviceConfig:
    """The grid meter sits on the 11 kV side, the others behind the transformer; all measure through transformers."""
    at_grid = kind is MeterType.GRID
    return DeviceConfig(
        name=name,
        type=DeviceType.METER,
        template="acuvim2_standard",
        host=host,
        port=port,
        serial_number=f"AH-SIM-{site}-{kind.value.upper()}"[:32],
        firmware_version="sim-1.0",
        meter_type=kind,
        vt_ratio=100 if at_grid else 4,
        ct_ratio=12 if at_grid else 160,
        nominal_voltage_v=11_000 if at_grid else 400,
        max_power_kw=1000,
    )
