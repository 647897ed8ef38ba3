"""What the platform does for the edge of a site, whatever carries it there: the SQL link and the HTTP API call this.

Readings, decisions and health that it recorded are stored; the registry of its site is read as it needs it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection

from flux.control.ledger import KeptDecision, PlanText
from flux.model import Device, DeviceType, HealthRecord, Reading, parse_metadata
from flux.registry.devices import list_devices
from flux.store import ownership
from flux.store.decisions import store_decisions
from flux.store.encoding import Recorded
from flux.store.health import store_health
from flux.store.ingest import IngestResult, Rejection, store


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the reading at ``index`` of a batch was refused; it is kept in ``rejected_readings``."""

    index: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class PushResult:
    """What became of a batch that the platform has committed; ``rejected`` rows are kept there with their reasons.

    ``refusals``: which readings those were; documents that were refused are counted only.
    """

    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    refusals: tuple[Refusal, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class StopOrder:
    """Somebody stopped the site; ``since`` is aware UTC."""

    actor: str
    reason: str
    since: datetime | None = None

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"the site was stopped by {self.actor}{why}; `flux control resume` ends it"


@dataclass(frozen=True, slots=True)
class RegistrySnapshot:
    """The devices of one site, and those of the templates they name that the platform has: name → YAML.

    ``stop`` is the platform's `flux control stop` in force; ``resumed_at`` when the site was last resumed there.
    """

    devices: tuple[Device, ...] = ()
    templates: Mapping[str, str] = field(default_factory=dict)
    stop: StopOrder | None = None
    resumed_at: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """The whole snapshot as JSON can hold it."""
        stop = self.stop
        return {
            "devices": [device.model_dump(mode="json") for device in self.devices],
            "templates": dict(self.templates),
            "stop": None if stop is None else [stop.actor, stop.reason, _text(stop.since)],
            "resumed_at": _text(self.resumed_at),
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "RegistrySnapshot":
        """KeyError, TypeError or ValueError for what is none."""
        devices = tuple(_device(row) for row in body["devices"])
        stop, resumed_at = body.get("stop"), _time(body.get("resumed_at"))  # not in older files
        order = None if stop is None else StopOrder(stop[0], stop[1], _time(stop[2]))
        return cls(devices, body["templates"], order, resumed_at)


def cursor_of(body: Mapping[str, Any]) -> str:
    """Names a state of something that goes as JSON: equal ones have equal cursors."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


async def store_records(conn: AsyncConnection[Any], records: Sequence[Recorded]) -> PushResult:
    """Store what an edge recorded; when this returns it is committed. Again is free. Not within a transaction.

    A batch is several transactions: readings, then decisions with their plans, then health. Raises psycopg's errors
    when the database goes away.
    """
    places = [place for place, record in enumerate(records) if isinstance(record, Reading)]
    readings = [record for record in records if isinstance(record, Reading)]
    decisions = [record for record in records if isinstance(record, KeptDecision)]
    plans = [record for record in records if isinstance(record, PlanText)]
    health = [record for record in records if isinstance(record, HealthRecord)]
    result = IngestResult(0, 0, 0)
    rejections: list[Rejection] = []
    if readings:
        result, rejections = await store(conn, readings, record=True)
    if decisions or plans:
        result += await store_decisions(conn, decisions, plans)
    if health:
        result += await store_health(conn, health)
    refusals = tuple(Refusal(places[one.index], one.reason, one.detail) for one in rejections)
    return PushResult(result.stored, result.duplicates, result.rejected, refusals)


async def registry_snapshot(conn: AsyncConnection[Any], site: str) -> RegistrySnapshot:
    """What the registry holds for ``site`` now."""
    devices = await list_devices(conn, site=site)
    templates = await _templates(conn, devices)
    stop = await ownership.stop_in_force(conn, site)
    resumed_at = await ownership.last_resumed_at(conn, site)
    order = None if stop is None else StopOrder(stop.actor, stop.reason, stop.stopped_at)
    return RegistrySnapshot(tuple(devices), templates, order, resumed_at)


async def _templates(conn: AsyncConnection[Any], devices: Sequence[Device]) -> dict[str, str]:
    names = list({name for device in devices if (name := device.metadata.template_name) is not None})
    cursor = await conn.execute("SELECT name, body FROM flux.device_templates WHERE name = ANY(%s)", (names,))
    return dict(await cursor.fetchall())


def _device(row: dict[str, Any]) -> Device:
    metadata = parse_metadata(DeviceType(row["type"]), row["metadata"], row["name"])
    return Device.model_validate({**row, "metadata": metadata})


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
