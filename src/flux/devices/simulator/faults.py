"""Faults on request: how a simulated device misbehaves, from the start or while it runs.

Written ``DEVICE:kind[:argument][,option=value…]``, with ``*`` for every device::

    WLCE-GRID-METER:drop              no answer
    WLCE-GRID-METER:delay:2s,p=0.1    one answer in ten comes two seconds late
    WLCE-BESS-01:exception:6,for=1m   "busy" for a minute
    WLCE-BESS-01:refuse-writes        reads work, writes get exception 4 (or :CODE)
    WLCE-LOAD-METER:lag:30s           registers show what was half a minute ago
    *:garbage                         answers that are no Modbus
    WLCE-GRID-METER:reset             counters to zero, once
    WLCE-BESS-01:restart:5s           connections closed, commands lost, away for five seconds, once
    WLCE-BESS-01:blocks:4             only four inverter blocks available
    WLCE-GRID-METER:noise:0.3         its powers are off by 0.3 kW (one standard deviation), anew twice a second
    WLCE-BESS-01:tripped              it takes commands and shows them as its target, and rests

Options: ``p`` (probability of each request, 0 to 1), ``after`` and ``for`` (when it begins, how long it lasts).
"""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from flux.errors import InputError
from flux.model import parse_duration

EVERY_DEVICE = "*"


class FaultKind(StrEnum):
    DROP = "drop"
    DELAY = "delay"
    GARBAGE = "garbage"
    EXCEPTION = "exception"
    REFUSE_WRITES = "refuse-writes"
    LAG = "lag"
    BLOCKS = "blocks"
    RESET = "reset"
    RESTART = "restart"
    NOISE = "noise"
    TRIPPED = "tripped"


ONCE = frozenset({FaultKind.RESET, FaultKind.RESTART})
"""These happen at one moment; the others hold for a time."""

_TIMED = {FaultKind.DELAY: None, FaultKind.LAG: None, FaultKind.RESTART: "0s"}
_NUMBERED = {FaultKind.EXCEPTION: "4", FaultKind.REFUSE_WRITES: "4", FaultKind.BLOCKS: None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way of misbehaving.

    ``duration`` is the argument of delay, lag and restart; ``power_kw`` of noise; ``number`` that of the others.
    """

    device: str
    kind: FaultKind
    duration: timedelta = timedelta()
    number: int = 0
    power_kw: float = 0.0
    probability: float = 1.0
    after: timedelta = timedelta()
    lasts: timedelta | None = None

    def concerns(self, device: str) -> bool:
        return self.device in (EVERY_DEVICE, device)


def parse_fault(text: str) -> Fault:
    """Read ``DEVICE:kind[:argument][,option=value…]``; raises :class:`InputError` that names what is wrong."""
    spec, *options = [part.strip() for part in text.split(",")]
    device, _, rest = spec.partition(":")
    name, _, argument = rest.partition(":")
    if name not in list(FaultKind):
        kinds = ", ".join(FaultKind)
        raise InputError(f"fault {text!r}: {name!r} is no kind of fault; write DEVICE:KIND, KIND one of {kinds}")
    if not device:
        raise InputError(f"fault {text!r}: needs a device before the colon, or * for every device")
    try:
        fault = _with_argument(Fault(device=device, kind=FaultKind(name)), argument)
        for option in options:
            fault = _with_option(fault, option)
    except ValueError as error:
        raise InputError(f"fault {text!r}: {error}") from None
    return fault


def _with_argument(fault: Fault, argument: str) -> Fault:
    if fault.kind in _TIMED:
        return replace(fault, duration=parse_duration(_required(fault, argument or _TIMED[fault.kind], "10s")))
    if fault.kind is FaultKind.NOISE:
        power_kw = float(_required(fault, argument or None, "0.3"))
        if not 0 < power_kw < float("inf"):
            raise ValueError(f"a noise of {argument} kW is no power above 0")
        return replace(fault, power_kw=power_kw)
    if fault.kind in _NUMBERED:
        number = int(_required(fault, argument or _NUMBERED[fault.kind], "4"))
        if fault.kind is not FaultKind.BLOCKS and not 1 <= number <= 255:
            raise ValueError(f"exception code {number} is outside 1 to 255")
        if number < 0:
            raise ValueError(f"{number} blocks cannot be available")
        return replace(fault, number=number)
    if argument:
        raise ValueError(f"{fault.kind} takes no argument, {argument!r} was given")
    return fault


def _required(fault: Fault, argument: str | None, example: str) -> str:
    if argument is None:
        raise ValueError(f"{fault.kind} needs an argument, like {fault.kind}:{example}")
    return argument


def _with_option(fault: Fault, option: str) -> Fault:
    key, _, value = option.partition("=")
    if key == "p":
        probability = float(value)
        if not 0 <= probability <= 1:
            raise ValueError(f"p={value} is outside 0 to 1")
        return replace(fault, probability=probability)
    if key == "after":
        return replace(fault, after=parse_duration(value))
    if key == "for":
        return replace(fault, lasts=parse_duration(value))
    raise ValueError(f"{option!r} is no option; there are p=, after= and for=")


@dataclass(frozen=True, slots=True)
class _Active:
    fault: Fault
    begins: datetime
    ends: datetime | None
    group: str


class FaultBoard:
    """The faults that hold now. The random generator decides where a fault has a probability."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random(0)  # noqa: S311 - repeatable faults, not a secret
        self._active: list[_Active] = []
        self._groups: dict[str, Counter[Fault]] = {}

    @property
    def faults(self) -> tuple[Fault, ...]:
        return tuple(active.fault for active in self._active)

    def add(self, fault: Fault, now: datetime, group: str = "") -> None:
        """Let it begin ``fault.after`` from now."""
        begins = now + fault.after
        self._active.append(_Active(fault, begins, None if fault.lasts is None else begins + fault.lasts, group))

    def clear(self, device: str | None = None) -> None:
        """End all faults, or those that were asked for by this device's name."""
        self._active = [active for active in self._active if device not in (None, active.fault.device)]

    def replace(self, group: str, faults: Sequence[Fault], now: datetime) -> None:
        """Make these the faults of a group: those that are in it already go on, the others end, new ones begin.

        A reset or restart that is still in the list is not a new one.
        """
        before, wanted = self._groups.get(group, Counter()), Counter(faults)
        ended = before - wanted
        kept = []
        for active in self._active:
            if active.group == group and ended[active.fault] > 0:
                ended[active.fault] -= 1
            else:
                kept.append(active)
        self._active = kept
        for fault in (wanted - before).elements():
            self.add(fault, now, group)
        self._groups[group] = wanted

    def take_due_once(self, now: datetime) -> list[Fault]:
        """The faults of a moment (reset, restart) whose moment has come; they are taken off the board."""
        due = [active for active in self._active if active.fault.kind in ONCE and active.begins <= now]
        self._active = [active for active in self._active if active not in due]
        return [active.fault for active in due]

    def holding(self, device: str, kinds: Iterable[FaultKind], now: datetime) -> Fault | None:
        """The first fault of these kinds that hits the device now; one with a probability is diced for."""
        if not self._active:
            return None
        wanted = frozenset(kinds)
        for active in self._active:
            fault = active.fault
            if fault.kind not in wanted or not fault.concerns(device) or now < active.begins:
                continue
            if active.ends is not None and now >= active.ends:
                continue
            if fault.probability >= 1 or self._chance.random() < fault.probability:
                return fault
        return None

    def forget_ended(self, now: datetime) -> None:
        """Drop faults whose time is over."""
        self._active = [active for active in self._active if active.ends is None or now < active.ends]
