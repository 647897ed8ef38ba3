"""What-if: the controller's own ``decide`` over given states, no device and no database needed."""

from collections.abc import Iterable, Iterator
from datetime import timedelta

from flux.control.decide import decide
from flux.control.decision import Decision
from flux.control.plan import ControllerPlan
from flux.control.state import AcknowledgedCommand, CycleState, Measurement, Memory, ScheduleStep
from flux.control.steps import Step, StepError, parse_step
from flux.errors import InputError


class Replay:
    """A controller that believes what it is told, and a battery that follows at once.

    Without a measured battery power the battery is at the previous target: 0 kW before the first, and a step that
    sends nothing leaves it. A schedule holds until a step replaces it; market and site limits hold for their step only.
    """

    def __init__(self, plan: ControllerPlan, step: timedelta | None = None) -> None:
        self._plan = plan
        self._step = step
        self._previous: AcknowledgedCommand | None = None
        self._schedule: tuple[ScheduleStep, ...] = ()
        self._memory = Memory()

    def decide(self, step: Step) -> Decision:
        """The decision of the next step."""
        if step.schedule is not None:
            self._schedule = step.schedule
        decision = decide(self._plan, self._state(step))
        self._memory = decision.memory
        if decision.target_power_kw is not None:
            self._previous = AcknowledgedCommand(decision.target_power_kw, decision.time)
        return decision

    def _state(self, step: Step) -> CycleState:
        site_power = step.site_power
        if step.net_load_kw is not None:
            at = 0.0 if self._previous is None else self._previous.power_kw
            site_power = Measurement(step.net_load_kw - at, step.site_power_at)
        return CycleState(
            time=step.time,
            site_power=site_power,
            soe_kwh=step.soe,
            battery_power=step.bess_power,
            last_command=self._previous,
            market=step.market,
            schedule=self._schedule,
            limits=step.limits,
            step=self._step,
            memory=self._memory,
        )


def replay(
    plan: ControllerPlan, lines: Iterable[str | bytes], source: str = "steps", step: timedelta | None = None
) -> Iterator[Decision]:
    """Decide each line of ``lines`` (JSON), one by one; blank lines are passed over.

    A bad line is an :class:`InputError` that names ``source``, the line's number and the field; what came before it
    has been decided by then. ``step``: the time between steps, for the SoE limits; default: the plan's interval.
    """
    session = Replay(plan, step)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            parsed = parse_step(line)
        except StepError as error:
            raise InputError(f"{source}:{number}: {error}") from None
        yield session.decide(parsed)
