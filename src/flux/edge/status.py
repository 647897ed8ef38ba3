"""What the edge is doing, as a small JSON file that others read: ``flux up``, ``flux doctor``, monitoring.

It is replaced whole (never half written) every two seconds; a file whose ``time`` is old is of an edge that is gone.
"""

import json
import os
from collections.abc import Callable, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

from flux import __version__
from flux.control.feed import PushedPlan
from flux.control.plan import ControllerPlan, plan_hash
from flux.devices.driver import DeviceDriver, Poll
from flux.edge.alarms import Alarms
from flux.edge.controlled import ControlledBattery
from flux.edge.recorder import Recorder
from flux.edge.site import Site, SiteDevice
from flux.edge.ticks import Clock
from flux.edge.uploader import Uploader
from flux.model import DeviceType

STATUS_FILE = "status.json"


class StatusReport:
    """Puts together what the parts of an edge say of themselves; powers in kW, times in ISO 8601, UTC."""

    def __init__(
        self,
        site_code: str,
        site: Site,
        recorder: Recorder,
        uploader: Uploader,
        alarms: Alarms,
        clock: Clock,
        clock_difference_s: Callable[[], float | None],
        pushed: Callable[[], PushedPlan | None],
    ) -> None:
        """``pushed``: the pushed plan that controls; None: the site file's does."""
        self._site_code = site_code
        self._site = site
        self._recorder = recorder
        self._uploader = uploader
        self._alarms = alarms
        self._clock = clock
        self._clock_difference_s = clock_difference_s
        self._pushed = pushed
        self._started = clock()
        self._hashed: tuple[ControllerPlan, str] | None = None

    def snapshot(self, *, running: bool = True) -> dict[str, Any]:
        """Everything, ready for JSON. `docs/edge.md` explains the keys."""
        sent = self._uploader.sent
        return {
            "site": self._site_code,
            "version": __version__,
            "pid": os.getpid(),
            "running": running,
            "started": _time(self._started),
            "time": _time(self._clock()),
            "controller": self._controller(),
            "devices": [self._device(one) for one in self._site.devices.values()],
            "outbox": {
                "depth": self._recorder.depth,
                "in_memory": self._recorder.in_memory,
                "recorded": self._recorder.recorded,
                "lost": self._recorder.lost,
            },
            "uploads": {
                "stored": sent.stored,
                "duplicates": sent.duplicates,
                "rejected": sent.rejected,
                "batch_size": self._uploader.batch_size,
            },
            "clock_difference_s": self._clock_difference_s(),
            "alarms": [{"key": a.key, "text": a.text, "since": _time(a.since)} for a in self._alarms.active],
        }

    def _controller(self) -> dict[str, Any] | None:
        controller = self._site.controller
        if controller is None or controller.last is None:
            return None
        decision = controller.last
        return {
            "time": _time(decision.time),
            "plan": self._plan(controller.plan),
            "target_kw": decision.target_power_kw,
            "acknowledged_kw": sum(battery.commanded_kw(self._clock()) for battery in controller.batteries),
            "active": list(decision.active),
            "effective": decision.effective,
            "limits": [limit.value for limit in decision.limits],
            "site_at_rest_kw": decision.site_at_rest_kw,
            "reason": decision.reason,
            "halted": self._site.halted(),
            "withheld": controller.withheld,
            "stop_acknowledged": controller.stop_acknowledged,
            "batteries": [self._battery(battery) for battery in controller.batteries],
            "cycles": controller.cycles,
            "failed_commands": controller.failed_commands,
        }

    def _plan(self, plan: ControllerPlan) -> dict[str, str | None]:
        if self._hashed is None or self._hashed[0] is not plan:
            self._hashed = plan, plan_hash(plan)
        pushed = self._pushed()
        return {
            "hash": self._hashed[1],
            "pushed_by": None if pushed is None else pushed.actor,
            "pushed_at": None if pushed is None else _time(pushed.pushed_at),
        }

    def _battery(self, battery: ControlledBattery) -> dict[str, Any]:
        now = self._clock()
        return {
            "name": battery.name,
            "acknowledged_kw": battery.commanded_kw(now),
            "other_master": battery.other_master,
            "register_writes": {"day": now.date().isoformat(), "today": battery.writes.today(now)}
            | {"yesterday": battery.writes.yesterday(now)},
        }

    def _device(self, one: SiteDevice) -> dict[str, Any]:
        poll = self._site.newest.get(one.device.name)
        health = one.poller.health if one.poller is not None else None
        row: dict[str, Any] = {
            "name": one.device.name,
            "type": one.device.type.value,
            "state": one.device.state.value,
            "polled": one.poller is not None,
            "time": _time(poll.time) if poll else None,
            "values": _values(one.driver, poll) if poll else {},
        }
        if health is not None:
            row |= {
                "last_success": _time(health.last_success),
                "response_time_s": health.response_time_s,
                "away_since": _time(health.away_since),
                "recorded": health.recorded,
                "missed": health.missed,
                "problem": health.problem,
            }
        return row


def _values(driver: DeviceDriver, poll: Poll) -> dict[str, float | None]:
    """The few newest values that people look at; a battery's power is its set-point unless it measures it."""
    if driver.device.type is DeviceType.METER:
        return {"power_total_active": driver.measured_power_kw(poll)}
    target = poll.values.get("target_power")
    return {
        "soe": driver.soe_pct(poll),
        "target_power": target if isinstance(target, int | float) else None,
        "measured_power": driver.measured_power_kw(poll),
        "available_inverter_blocks": driver.available_blocks(poll),
    }


class WritesBefore:
    """The register writes that an earlier run of this edge counted, from its last status file."""

    def __init__(self, counted: Mapping[str, tuple[date, int]] | None = None) -> None:
        self._counted = dict(counted or {})

    @classmethod
    def read(cls, path: Path) -> "WritesBefore":
        """Nothing where there is no file, or none that can be read: a count begins anew then."""
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))["controller"]["batteries"]
            counts = {row["name"]: row["register_writes"] for row in rows}
            return cls({name: (date.fromisoformat(one["day"]), int(one["today"])) for name, one in counts.items()})
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def carry_to(self, battery: ControlledBattery) -> None:
        """Let ``battery`` count on from there."""
        counted = self._counted.get(battery.name)
        if counted is not None:
            battery.writes.go_on_from(*counted)


def write_status(path: Path, snapshot: dict[str, Any]) -> None:
    """Replace the file at ``path``; OSError when the disk refuses."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(json.dumps(snapshot, separators=(",", ":")), encoding="utf-8")
    draft.replace(path)


def _time(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()
