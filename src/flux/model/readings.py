"""What a poll records. The two classes below are the only place where the metrics are named.

Table columns, rollups, ingest, API and CLI follow from the fields' ``Metric``: adding a metric is one line here
(and the column appears with the next ``flux db migrate``).
"""

from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, NewType
from uuid import UUID

DeviceId = NewType("DeviceId", UUID)


class MetricKind(StrEnum):
    """How a metric is stored and rolled up."""

    LEVEL = "level"  # an instantaneous value: mean, minimum, maximum; `real` in SQL
    COUNTER = "counter"  # cumulative energy: delta; `double precision`, as real loses 0.01 kWh above 131,072 kWh
    CODE = "code"  # a small integer whose mean says nothing; `smallint`


@dataclass(frozen=True, slots=True)
class Metric:
    """One column of a reading.

    ``demand``: its largest 1-minute and 5-minute means are kept, as what a site pays for. ``weight``: the power by
    whose magnitude its mean is weighed as well (a power factor at no load says nothing). ``counted``: the counters
    ``energy_imported_…`` and ``energy_exported_…`` that count this power.
    """

    name: str
    kind: MetricKind
    unit: str
    demand: bool = False
    weight: str | None = None
    counted: str | None = None


def _metric(kind: MetricKind, unit: str, **more: Any) -> Any:
    return field(default=None, metadata={"kind": kind, "unit": unit, **more})


def _level(unit: str, **more: Any) -> Any:
    return _metric(MetricKind.LEVEL, unit, **more)


def _counter(unit: str) -> Any:
    return _metric(MetricKind.COUNTER, unit)


def _code() -> Any:
    return _metric(MetricKind.CODE, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterReading:
    """One poll of a meter; power + flowing from the grid side into what it meters. ``None``: not measured."""

    device_id: DeviceId
    time: datetime
    frequency: float | None = _level("Hz")
    voltage_line_average: float | None = _level("V")
    current_phase_a: float | None = _level("A")
    current_phase_b: float | None = _level("A")
    current_phase_c: float | None = _level("A")
    current_phase_average: float | None = _level("A")
    power_phase_a_active: float | None = _level("kW", counted="phase_a_active")
    power_phase_b_active: float | None = _level("kW", counted="phase_b_active")
    power_phase_c_active: float | None = _level("kW", counted="phase_c_active")
    power_total_active: float | None = _level("kW", demand=True, counted="active")
    power_total_reactive: float | None = _level("kVAr")
    power_total_apparent: float | None = _level("kVA")
    power_factor_total: float | None = _level("1", weight="power_total_active")
    energy_imported_active: float | None = _counter("kWh")
    energy_exported_active: float | None = _counter("kWh")
    energy_imported_phase_a_active: float | None = _counter("kWh")
    energy_exported_phase_a_active: float | None = _counter("kWh")
    energy_imported_phase_b_active: float | None = _counter("kWh")
    energy_exported_phase_b_active: float | None = _counter("kWh")
    energy_imported_phase_c_active: float | None = _counter("kWh")
    energy_exported_phase_c_active: float | None = _counter("kWh")
    energy_imported_reactive: float | None = _counter("kVArh")
    energy_exported_reactive: float | None = _counter("kVArh")
    energy_imported_apparent: float | None = _counter("kVAh")
    energy_exported_apparent: float | None = _counter("kVAh")


@dataclass(frozen=True, slots=True, kw_only=True)
class BessReading:
    """One poll of a battery; power + discharge, − charge.

    ``command_source`` is Flux's code of the decision that the device last acknowledged (:class:`CommandSource`).
    """

    device_id: DeviceId
    time: datetime
    soe: float | None = _level("%")
    target_power: float | None = _level("kW")
    available_inverter_blocks: int | None = _code()
    command_source: int | None = _code()


Reading = MeterReading | BessReading


def metrics_of(reading_type: type[Reading]) -> tuple[Metric, ...]:
    """The metrics of a reading class, in the order of its fields."""
    return tuple(Metric(f.name, **f.metadata) for f in fields(reading_type) if f.metadata)


METER_METRICS = metrics_of(MeterReading)
BESS_METRICS = metrics_of(BessReading)
