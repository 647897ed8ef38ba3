"""Metadata is checked by type, and unknown keys are kept."""

from typing import Any

import pytest

from flux.errors import InputError
from flux.model import BESS_METRICS, METER_METRICS, BessMetadata, DeviceType, MeterMetadata, MetricKind, parse_metadata


def test_unknown_keys_are_kept() -> None:
    metadata = parse_metadata(DeviceType.BESS, {"capacity_kwh": 500, "commissioned_by": "Ada"})
    assert isinstance(metadata, BessMetadata)
    assert metadata.model_dump()["commissioned_by"] == "Ada"


def test_the_template_of_a_meter_is_its_register_map() -> None:
    metadata = parse_metadata(DeviceType.METER, {"register_map": "acuvim2_standard", "meter_type": "grid"})
    assert isinstance(metadata, MeterMetadata)
    assert metadata.template_name == "acuvim2_standard"


@pytest.mark.parametrize(
    ("type", "data", "expected"),
    [
        (DeviceType.BESS, {"capacity_kwh": 0}, "X: metadata capacity_kwh = 0: Input should be greater than 0"),
        (DeviceType.BESS, {"efficiency": 1.01}, "efficiency = 1.01"),
        (DeviceType.METER, {"meter_type": "gird"}, "meter_type = 'gird'"),
        (DeviceType.METER, {"ct_ratio": 0}, "ct_ratio = 0"),
        (DeviceType.METER, {"phases": 4}, "phases = 4"),
        (DeviceType.METER, {"port": 70000}, "port = 70000"),
        (DeviceType.METER, {"modbus_address": -1}, "modbus_address = -1"),
    ],
)
def test_an_impossible_value_is_named(type: DeviceType, data: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_metadata(type, data, "X")
    assert expected in str(caught.value)


def test_every_energy_is_a_counter_and_nothing_else_is() -> None:
    for metric in (*METER_METRICS, *BESS_METRICS):
        assert (metric.kind is MetricKind.COUNTER) == metric.name.startswith("energy_")
