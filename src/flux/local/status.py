"""What the live table shows: a snapshot of the edge's own status file and of the database."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection
from rich.markup import escape

from flux.store import queries


@dataclass(frozen=True, slots=True)
class StoreFigures:
    """Rows kept and how far the rollups are behind."""

    readings: int
    rejected: int
    rollup_lag_s: float


async def store_figures(conn: AsyncConnection[Any]) -> StoreFigures:
    """Exact counts: cheap for a demo's tables, a sequential scan for years of readings."""
    cursor = await conn.execute(
        "SELECT (SELECT count(*) FROM flux.mg_meter_readings) + (SELECT count(*) FROM flux.mg_bess_readings),"
        " (SELECT count(*) FROM flux.rejected_readings WHERE status = 'pending')"
    )
    readings, rejected = await cursor.fetchone() or (0, 0)
    return StoreFigures(readings, rejected, await queries.rollup_lag_s(conn))


_STALE = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class EdgeStatus:
    """The edge's status file, as lines of a table."""

    data: dict[str, Any]

    @property
    def pid(self) -> int:
        """The process that wrote it."""
        return int(self.data["pid"])

    def rows(self, now: datetime) -> list[tuple[str, str]]:
        """Label and value (rich markup) of each line; powers in kW, BESS + discharge, meters + towards the load."""
        rows = [("site", f"[bold]{self.data['site']}[/]{self._age(now)}")]
        rows += [(device["name"], _device_line(device)) for device in self.data["devices"]]
        rows.append(("controller", _controller_line(self.data["controller"])))
        outbox = self.data["outbox"]
        lost = f", [red]{outbox['lost']:,} lost[/]" if outbox["lost"] else ""
        rows.append(("outbox", f"{outbox['depth']:,} waiting{lost}"))
        rows += [("[red]alarm[/]", f"[red]{escape(alarm['text'])}[/]") for alarm in self.data["alarms"]]
        return rows

    def _age(self, now: datetime) -> str:
        age = now - datetime.fromisoformat(self.data["time"])
        if not self.data["running"]:
            return " [yellow]the edge is stopped[/]"
        return f" [red]no sign of the edge for {age.total_seconds():.0f} s[/]" if age > _STALE else ""


def _device_line(device: dict[str, Any]) -> str:
    if not device["polled"]:
        return f"[dim]{device['state']}, not polled[/]"
    if device.get("away_since"):
        return f"[red]does not answer: {escape(str(device.get('problem')))}[/]"
    values = device["values"]
    if "soe" in values:
        power = values["measured_power"] if values["measured_power"] is not None else values["target_power"]
        return f"SoE {_number(values['soe'], '%')}   set-point {_number(power, 'kW')}"
    return _number(values.get("power_total_active"), "kW")


def _number(value: float | None, unit: str) -> str:
    return "[dim]–[/]" if value is None else f"{value:z.1f} {unit}"


def _controller_line(controller: dict[str, Any] | None) -> str:
    if controller is None:
        return "[dim]no decision yet[/]"
    mode = controller["effective"] or ("[red]stopped[/]" if controller["halted"] else "idle")
    return f"[bold]{mode}[/]  {escape(controller['reason'])}"


def read_edge_status(file: Path) -> EdgeStatus | None:
    """The edge's status file; None before it has written one."""
    try:
        return EdgeStatus(json.loads(file.read_text()))
    except FileNotFoundError:
        return None
