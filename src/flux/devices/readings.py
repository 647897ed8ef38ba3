"""From the values of a poll to a typed reading. Pure; prepared once for a device and its template."""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType

from flux.devices.codec import Value
from flux.devices.template import DeviceTemplate
from flux.model import (
    METER_METRICS,
    BessMetadata,
    BessReading,
    Device,
    DeviceId,
    DeviceType,
    MeterMetadata,
    MeterReading,
    MetricKind,
)

Values = Mapping[str, Value | None]

SIGNED_WITH_DIRECTION = {
    "power_phase_a_active",
    "power_phase_b_active",
    "power_phase_c_active",
    "power_total_active",
    "power_total_reactive",
    "power_factor_total",
}
_RECORDED_OF_BESS = {"soe", "target_power", "available_blocks", "stored_energy", "capacity"}
_NONE: Mapping[str, float] = MappingProxyType({})
_MOST = 1e30
_FULL_PCT = 100.0
_OVERFULL_PCT = 105.0
"""Capacity is nominal: a full battery may hold a little more, and is full. Beyond this one of the two is wrong."""


class ReadingMaker:
    """Makes readings of one device."""

    def __init__(self, device: Device, template: DeviceTemplate) -> None:
        self._device, self._template = device, template
        self._id = DeviceId(device.id)
        self._names = {register.name for register in template.readable}
        self._metadata = device.metadata
        inverted = isinstance(self._metadata, MeterMetadata) and self._metadata.invert
        self._meter_fields = _meter_fields(self._names, inverted)

    @property
    def control_names(self) -> frozenset[str]:
        if self._device.type is DeviceType.METER:
            return frozenset({"power_total_active"} & self._names)
        wanted = {"soe", "measured_power", "target_power", "available_blocks"}
        wanted |= {"max_charge_power", "max_discharge_power"}
        if "soe" not in self._names:
            wanted |= {"stored_energy", "capacity"}
        return frozenset(wanted & self._names)

    @property
    def blocks_total(self) -> int | None:
        own = (self._metadata.model_extra or {}).get("blocks_total")
        return own if isinstance(own, int) and own > 0 else self._template.blocks_total

    def reading(
        self,
        time: datetime,
        values: Values,
        command_source: int | None,
        implausible: Mapping[str, float] = _NONE,
    ) -> MeterReading | BessReading:
        """What is recorded. A meter's ``implausible`` values are, too: the store marks them, a person may object."""
        if self._device.type is DeviceType.BESS:
            return BessReading(
                device_id=self._id,
                time=time,
                soe=self.soe_pct(values),
                target_power=_number(values, "target_power"),
                available_inverter_blocks=self.available_blocks(values),
                command_source=command_source,
            )
        if implausible:
            values = {**values, **{name: v for name, v in implausible.items() if _can_be_stored(name, v)}}
        fields: dict[str, float | None] = {}
        for metric, name, negated in self._meter_fields:
            value = _number(values, name)
            fields[metric] = 0.0 - value if negated and value is not None else value
        return MeterReading(device_id=self._id, time=time, **fields)

    def soe_pct(self, values: Values) -> float | None:
        if "soe" in self._names:
            return _number(values, "soe")
        stored = _number(values, "stored_energy")
        capacity = _number(values, "capacity")
        if not capacity and isinstance(self._metadata, BessMetadata):
            capacity = self._metadata.capacity_kwh
        if stored is None or not capacity:
            return None
        soe = 100.0 * stored / capacity
        return min(soe, _FULL_PCT) if 0.0 <= soe <= _OVERFULL_PCT else None

    def measured_power_kw(self, values: Values) -> float | None:
        if self._device.type is DeviceType.BESS:
            return _number(values, "measured_power")
        power = _number(values, "power_total_active")
        inverted = isinstance(self._metadata, MeterMetadata) and self._metadata.invert
        return 0.0 - power if inverted and power is not None else power

    def limit_kw(self, values: Values, name: str) -> float | None:
        reported = _number(values, name)
        if reported is None and isinstance(self._metadata, BessMetadata):
            return self._metadata.max_power_kw
        return reported

    def available_blocks(self, values: Values) -> int | None:
        blocks = _number(values, "available_blocks")
        return None if blocks is None else round(blocks)

    def diagnostics(self, values: Values) -> dict[str, Value | None]:
        bess = self._device.type is DeviceType.BESS
        recorded = _RECORDED_OF_BESS if bess else {metric.name for metric in METER_METRICS}
        return {name: value for name, value in values.items() if name not in recorded}


def _can_be_stored(name: str, value: float) -> bool:
    """Whether the database has a column that holds it: no counter is below zero, and ``real`` ends at 3.4e38."""
    return abs(value) < _MOST and (value >= 0 or not name.startswith("energy_"))


def _number(values: Values, name: str) -> float | None:
    value = values.get(name)
    return value if isinstance(value, int | float) else None


def _meter_fields(names: set[str], inverted: bool) -> tuple[tuple[str, str, bool], ...]:
    """For each metric the register that it comes from, and whether its sign is turned.

    A transformer the wrong way round makes the meter see every flow reversed: what it counts as imported was exported.
    """
    fields = []
    for metric in METER_METRICS:
        source, negated = metric.name, False
        if inverted and metric.kind is MetricKind.COUNTER:
            source = _other_direction(metric.name)
        elif inverted:
            negated = metric.name in SIGNED_WITH_DIRECTION
        if source in names:
            fields.append((metric.name, source, negated))
    return tuple(fields)


def _other_direction(name: str) -> str:
    if "imported" in name:
        return name.replace("imported", "exported")
    return name.replace("exported", "imported")
