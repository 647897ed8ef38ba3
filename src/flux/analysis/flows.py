"""The seven flows of a site between sun, load, battery and grid, and who pays for which.

A step with 10 kWh of sun, 4 kWh of load and 8 kWh into the battery: 4 kWh solar→load, 6 kWh solar→battery, 2 kWh
grid→battery. The sun serves the load first, then the battery, then the grid; the battery serves the load first.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Series: TypeAlias = npt.NDArray[np.float64]
"""One number for each step."""


class Flow(StrEnum):
    """Energy from one place to another within a step, kWh, never negative."""

    SOLAR_TO_LOAD = "solar_to_load"
    SOLAR_TO_BATTERY = "solar_to_battery"
    SOLAR_TO_GRID = "solar_to_grid"
    GRID_TO_LOAD = "grid_to_load"
    GRID_TO_BATTERY = "grid_to_battery"
    BATTERY_TO_LOAD = "battery_to_load"
    BATTERY_TO_GRID = "battery_to_grid"


class Direction(StrEnum):
    """What a list of rates is for: a way through a meter, or one flow alone."""

    IMPORT = "import"
    EXPORT = "export"
    LOAD = "load"
    SOLAR_TO_LOAD = "solar_to_load"
    SOLAR_TO_BATTERY = "solar_to_battery"
    SOLAR_TO_GRID = "solar_to_grid"
    GRID_TO_LOAD = "grid_to_load"
    GRID_TO_BATTERY = "grid_to_battery"
    BATTERY_TO_LOAD = "battery_to_load"
    BATTERY_TO_GRID = "battery_to_grid"


_THROUGH_A_METER = {
    Direction.IMPORT: (Flow.GRID_TO_LOAD, Flow.GRID_TO_BATTERY),
    Direction.EXPORT: (Flow.SOLAR_TO_GRID, Flow.BATTERY_TO_GRID),
    Direction.LOAD: (Flow.SOLAR_TO_LOAD, Flow.GRID_TO_LOAD, Flow.BATTERY_TO_LOAD),
}
FLOWS_OF: Mapping[Direction, tuple[Flow, ...]] = MappingProxyType(
    _THROUGH_A_METER | {Direction(flow.value): (flow,) for flow in Flow}
)
"""The flows that each direction's rates are paid for; a flow pays all directions that name it."""


def split_flows(load_kwh: Series, solar_kwh: Series, charge_kwh: Series, discharge_kwh: Series) -> dict[Flow, Series]:
    """The flows of each step, from what was used, made, charged and discharged in it (all ≥ 0, at the meter)."""
    solar_to_load = np.minimum(solar_kwh, load_kwh)
    battery_to_load = np.minimum(discharge_kwh, load_kwh - solar_to_load)
    solar_to_battery = np.minimum(charge_kwh, solar_kwh - solar_to_load)
    return {
        Flow.SOLAR_TO_LOAD: solar_to_load,
        Flow.SOLAR_TO_BATTERY: solar_to_battery,
        Flow.SOLAR_TO_GRID: solar_kwh - solar_to_load - solar_to_battery,
        Flow.GRID_TO_LOAD: load_kwh - solar_to_load - battery_to_load,
        Flow.GRID_TO_BATTERY: charge_kwh - solar_to_battery,
        Flow.BATTERY_TO_LOAD: battery_to_load,
        Flow.BATTERY_TO_GRID: discharge_kwh - battery_to_load,
    }
