"""A site's own history, from the store: load and sun by its meters' rollups.

A site whose grid meter counted 3 kWh in five minutes, its generation meter −1 kWh and its battery's meter 2 kWh used
3 + 1 − 2 = 2 kWh; one with a meter at its load used what that says.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from psycopg import AsyncConnection

from flux.devices.simulator.profiles import Constant, CsvProfile, Profile
from flux.errors import NotFoundError
from flux.model import Device, DeviceType, MeterMetadata, MeterType
from flux.registry import list_devices
from flux.store import queries

_STEP = timedelta(minutes=5)

Net = Mapping[datetime, float]
"""kWh into what is metered less kWh out of it, of each five minutes that is known."""


@dataclass(frozen=True, slots=True)
class StoredSite:
    """What a site's meters say of a span; ``missing``: five minutes in which one of the meters says nothing."""

    load: Profile
    solar: Profile
    missing: int


async def site_of(
    conn: AsyncConnection[Any],
    site: str,
    start: datetime,
    end: datetime,
    zone: ZoneInfo,
    *,
    load_scale: float = 1.0,
    solar_scale: float = 1.0,
) -> StoredSite:
    """Load and sun of ``site`` over start ≤ time < end.

    What is missing counts as at the same clock time of another day. NotFoundError without the meters that it takes, or
    without any rollup of the span.
    """
    meters = _by_kind(await list_devices(conn, site=site, type=DeviceType.METER))
    if not meters.get(MeterType.LOAD) and not meters.get(MeterType.GRID):
        raise NotFoundError(f"site {site} has neither a meter at its load nor one at the grid; --load names a file")
    nets = {kind: [await _net(conn, meter, start, end) for meter in known] for kind, known in meters.items()}
    sun = {at: -kwh for at, kwh in _together(nets.get(MeterType.GENERATION, [])).items()}
    if meters.get(MeterType.LOAD):
        used = _together(nets[MeterType.LOAD])
    else:
        parts = [(1.0, net) for net in nets[MeterType.GRID]]
        parts += [(-1.0, net) for kind in (MeterType.GENERATION, MeterType.STORAGE) for net in nets.get(kind, [])]
        used = _together([net for _, net in parts], [sign for sign, _ in parts])
    if not used:
        raise NotFoundError(f"the meters of {site} have nothing from {start.isoformat()} to {end.isoformat()}")
    count = (end - start) // _STEP
    missing = count - len(used)
    if meters.get(MeterType.GENERATION):
        missing = max(missing, count - len(sun))
    return StoredSite(_profile(used, load_scale, zone), _profile(sun, solar_scale, zone), missing)


def _by_kind(meters: Iterable[Device]) -> dict[MeterType, list[Device]]:
    kinds: dict[MeterType, list[Device]] = {}
    for meter in meters:
        if isinstance(meter.metadata, MeterMetadata) and meter.metadata.meter_type is not None:
            kinds.setdefault(meter.metadata.meter_type, []).append(meter)
    return kinds


async def _net(conn: AsyncConnection[Any], meter: Device, start: datetime, end: datetime) -> Net:
    net: dict[datetime, float] = {}
    for row in await queries.rollups(conn, meter, "5m", start, end):
        imported, exported = row["energy_imported_active_delta"], row["energy_exported_active_delta"]
        if imported is not None and exported is not None:
            net[row["time_b"]] = imported - exported
    return net


def _together(nets: Sequence[Net], signs: Sequence[float] | None = None) -> dict[datetime, float]:
    """The sum of several meters, where all of them say something."""
    if not nets:
        return {}
    times = set(nets[0]).intersection(*nets[1:])
    signed = list(zip(nets, signs or [1.0] * len(nets), strict=True))
    return {at: sum(sign * net[at] for net, sign in signed) for at in sorted(times)}


def _profile(energies_kwh: Mapping[datetime, float], scale: float, zone: ZoneInfo) -> Profile:
    if not energies_kwh:
        return Constant(0.0)
    return CsvProfile({at: max(kwh, 0.0) for at, kwh in energies_kwh.items()}, _STEP, scale, zone)
