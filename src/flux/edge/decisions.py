"""What the controller decided goes to the ledger, and shadow plans decide on the same states, without a battery.

All of this comes after the battery was told: nothing that goes wrong here can keep a command back.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from typing import Protocol

import structlog

from flux.control.decide import decide
from flux.control.decision import Decision
from flux.control.ledger import LIVE, BatteryCommand, Fault, KeptDecision, is_news, is_stale, keep, plan_text
from flux.control.plan import ControllerPlan
from flux.control.state import CycleState, Memory
from flux.edge.alarms import Alarms
from flux.model import DeviceId
from flux.store.encoding import Recorded

_logger = structlog.get_logger(__name__)

Record = Callable[[Sequence[Recorded]], None]

SHADOW_ALARM = "shadow_plan"
_DEVICE_FAULTS = {
    "command": "not_acknowledged",
    "read_back": "read_back",
    "restarted": "restarted",
    "not_following": "not_following",
    "other_master": "other_master",
    "offline": "offline",
}
"""The alarms of a device, ``<key>:<name>``, that are faults in the ledger, and what they are called there."""
_SITE_FAULTS = {"hunting": "hunting", "stale": "stale", "control_lease": "no_lease"}
"""The same of the alarms that are about no one device; they are kept with the plan's first battery."""


class Observer(Protocol):
    """Told of each cycle: what was decided, from what, why it was not sent (None: it was), what became of it."""

    def __call__(
        self, state: CycleState, decision: Decision, withheld: str | None, commands: Sequence[BatteryCommand], /
    ) -> None: ...


def observe_nothing(
    state: CycleState, decision: Decision, withheld: str | None, commands: Sequence[BatteryCommand], /
) -> None:
    """For a controller that nobody looks at."""


def faults_of(alarms: Alarms, plan: ControllerPlan) -> tuple[Fault, ...]:
    """What is wrong now at the devices of ``plan``, in the order in which it came."""
    devices = {plan.site_meter, *plan.bess, *plan.bess_meter}
    found = []
    for alarm in alarms.active:
        key, _, name = alarm.key.partition(":")
        if name in devices and key in _DEVICE_FAULTS:
            found.append(Fault(_DEVICE_FAULTS[key], name, alarm.since, alarm.text))
        elif alarm.key in _SITE_FAULTS:
            found.append(Fault(_SITE_FAULTS[alarm.key], plan.bess[0], alarm.since, alarm.text))
    return tuple(found)


class PlanLedger:
    """The ledger of one plan: keeps a decision that is news, and once a day the plan's own text."""

    def __init__(self, name: str, plan: ControllerPlan, device_id: DeviceId, record: Record) -> None:
        self._name = name
        self._device_id = device_id
        self._record = record
        self._text = plan_text(plan)
        self._told: date | None = None
        self._last: KeptDecision | None = None

    def note(
        self,
        state: CycleState,
        decision: Decision,
        faults: Sequence[Fault] = (),
        withheld: str | None = None,
        commands: Sequence[BatteryCommand] = (),
    ) -> None:
        """Keep ``decision`` if it is news."""
        stale = is_stale(decision, state)
        if self._last is not None and not is_news(self._last, decision, stale, faults, commands):
            return
        kept = keep(
            decision,
            state,
            device_id=self._device_id,
            hash_of_plan=self._text.hash,
            plan=self._name,
            faults=faults,
            commands=commands,
            withheld=withheld,
        )
        if self._told != decision.time.date():  # again each day: a database may be restored from a day before
            self._record([self._text])
            self._told = decision.time.date()
        self._record([kept])
        self._last = kept


class ShadowPlan:
    """A plan that decides on the states of the live one and commands nothing; it has a memory of its own."""

    def __init__(self, name: str, plan: ControllerPlan, live: ControllerPlan, ledger: PlanLedger) -> None:
        self.name = name
        self.plan = plan
        self._step = live.interval
        self._ledger = ledger
        self._memory = Memory()

    def decide(self, state: CycleState) -> None:
        """Decide on ``state`` and keep that; a set-point by hand is for the battery, not for a plan beside it."""
        mine = replace(state, memory=self._memory, step=state.step or self._step, set_point=None)
        decision = decide(self.plan, mine)
        self._memory = decision.memory
        self._ledger.note(mine, decision)


class Decisions:
    """The live plan's ledger and all shadow plans of a site; ``observe`` is told of each cycle.

    ``device_id``: the plan's first battery. Whatever raises in here is an alarm and a line in the log, and no more.
    """

    def __init__(
        self,
        plan: ControllerPlan,
        shadows: Mapping[str, ControllerPlan],
        device_id: DeviceId,
        record: Record,
        alarms: Alarms,
    ) -> None:
        self._alarms = alarms
        self._plan = plan
        self._device_id = device_id
        self._record = record
        self._live = PlanLedger(LIVE, plan, device_id, record)
        self._shadows: list[ShadowPlan] = []
        self.change_shadows(shadows)

    def fits(self, plan: ControllerPlan, device_id: DeviceId) -> bool:
        """Whether this may go on: the same plan for the same battery."""
        return (self._plan, self._device_id) == (plan, device_id)

    def change_shadows(self, shadows: Mapping[str, ControllerPlan]) -> None:
        """Let these decide from now on; one that is as it was goes on with what it has begun."""
        known = {shadow.name: shadow for shadow in self._shadows}
        for name in known.keys() - shadows.keys():
            self._alarms.clear(f"{SHADOW_ALARM}:{name}")
        self._shadows = [
            known[name] if name in known and known[name].plan == plan else self._new_shadow(name, plan)
            for name, plan in shadows.items()
        ]

    def _new_shadow(self, name: str, plan: ControllerPlan) -> ShadowPlan:
        return ShadowPlan(name, plan, self._plan, PlanLedger(name, plan, self._device_id, self._record))

    def observe(
        self, state: CycleState, decision: Decision, withheld: str | None, commands: Sequence[BatteryCommand], /
    ) -> None:
        """Keep what was decided live and what became of it, then let each shadow plan decide."""
        faults = faults_of(self._alarms, self._plan)
        self._guarded("ledger", lambda: self._live.note(state, decision, faults, withheld, commands))
        for shadow in self._shadows:
            self._guarded(f"{SHADOW_ALARM}:{shadow.name}", partial(shadow.decide, state))

    def _guarded(self, key: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            if key not in {alarm.key for alarm in self._alarms.active}:
                _logger.exception("not decided or not kept", what=key)
            self._alarms.set(key, f"{key}: {type(error).__name__}: {error}")
        else:
            self._alarms.clear(key)
