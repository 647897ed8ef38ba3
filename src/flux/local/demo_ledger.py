"""The decisions of the demo's last simulated day, in the ledger, for `flux control log` and `why`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection

from flux.control.decision import Decision
from flux.control.ledger import LIVE, BatteryCommand, KeptDecision, PlanText
from flux.control.plan import ControllerPlan
from flux.control.state import CycleState
from flux.edge.decisions import PlanLedger
from flux.model import Device, DeviceId
from flux.store.decisions import store_decisions
from flux.store.encoding import Recorded


class BackfillLedger:
    """Keeps what is decided from ``since`` on, as the live edge would, until :meth:`store`."""

    def __init__(self, plan: ControllerPlan, devices: Sequence[Device], since: datetime) -> None:
        """``plan`` as it decides: at the interval of the fast run."""
        first = next(device.id for device in devices if device.name == plan.bess[0])
        self._since = since
        self._waiting: list[Recorded] = []
        self._ledger = PlanLedger(LIVE, plan, DeviceId(first), self._waiting.extend)

    def observe(
        self, state: CycleState, decision: Decision, withheld: str | None, commands: Sequence[BatteryCommand], /
    ) -> None:
        if decision.time >= self._since:
            self._ledger.note(state, decision, (), withheld, commands)

    async def store(self, conn: AsyncConnection[Any]) -> None:
        """Into the database; what is there already stays."""
        decisions = [one for one in self._waiting if isinstance(one, KeptDecision)]
        await store_decisions(conn, decisions, [one for one in self._waiting if isinstance(one, PlanText)])
        self._waiting.clear()
