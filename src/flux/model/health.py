"""How a device is doing, as the edge saw it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from flux.model.readings import DeviceId


class HealthStatus(StrEnum):
    """``degraded``: it answers, slowly or not always."""

    ONLINE = "online"
    DEGRADED = "degraded"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRecord:
    """A row of ``device_health``. ``error_count``: failed polls since the last one that succeeded."""

    device_id: DeviceId
    time: datetime
    status: HealthStatus
    response_time_ms: float | None = None
    error_count: int = 0
    last_successful_poll: datetime | None = None
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
