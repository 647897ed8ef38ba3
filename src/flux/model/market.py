"""Market data and the sources of commands."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any


class CommandSource(IntEnum):
    """Why the battery was told what it was told; stored with each BESS reading."""

    MANUAL = 0
    NIV_CHASE = 1
    DYNAMIC_PEAK = 2
    IMPORT_AVOIDANCE = 3
    EXPORT_AVOIDANCE = 4
    AXLE = 5
    TO_SOE = 6
    OPTIMISER = 7


class MarketDataType(IntEnum):
    """Ids of `market_data_types`; more can be registered there."""

    NIV = 1  # MW, estimate; positive = system short
    WHOLESALE_PRICE = 2  # £/MWh
    IMBALANCE_PRICE = 3  # £/MWh
    AXLE_DISPATCH = 4  # kW
    IMBALANCE_VOLUME = 5  # MWh per settlement period; positive = system short


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketValue:
    """One value about ``time``; ``site`` None: for all sites. ``known_at``: when it became known, for look-ahead."""

    type: int
    time: datetime
    value: float
    site: str | None = None
    known_at: datetime | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
