"""A backtest: a plan on history, priced; several of them on all cores."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from flux.analysis.known import newest_prices
from flux.analysis.outcome import Outcome, outcome_of, priced
from flux.analysis.simulate import Setting, simulate
from flux.analysis.tariff import Tariff
from flux.control.plan import ControllerPlan
from flux.errors import FluxError, InputError
from flux.model import SETTLEMENT_PERIOD, format_duration, period_start

_WORTH_A_PROCESS = 20_000
"""Decisions of all backtests: about a second of work."""

Progress = Callable[[int, float], None]
"""The number of the backtest, and the share of it that is done (0 to 1)."""


@dataclass(frozen=True, slots=True)
class Backtest:
    """One plan and what it is tried on; without a tariff nothing is priced."""

    name: str
    plan: ControllerPlan
    setting: Setting
    tariff: Tariff | None = None

    def run(self, progress: Callable[[float], None] = lambda _share: None) -> Outcome:
        """Live through the span and price what happened."""
        course = simulate(self.plan, self.setting, progress=progress)
        outcome = outcome_of(self.name, self.plan, self.setting, course, newest_prices(self.setting.releases))
        return outcome if self.tariff is None else priced(outcome, self.tariff)


def check_span(start: datetime, end: datetime, step: timedelta) -> None:
    """Refuse a span that is not of whole half hours, or a step that does not divide one."""
    if step <= timedelta() or SETTLEMENT_PERIOD % step:
        raise InputError(f"a step of {format_duration(step)} does not divide half an hour")
    if step < timedelta(seconds=1):
        raise InputError(f"a step of {format_duration(step)} is shorter than a second")
    for instant in (start, end):
        if instant != period_start(instant):
            raise InputError(f"{instant.isoformat()} is no start of a half hour")
    if end <= start:
        raise InputError(f"the span ends at {end.astimezone(UTC):%Y-%m-%dT%H:%MZ}, and does not begin before that")


def run_all(
    backtests: Sequence[Backtest],
    progress: Progress = lambda _number, _share: None,
    *,
    processes: int | None = None,
) -> list[Outcome]:
    """Run each in a process of its own, ``processes`` at once (default: as many as there are cores).

    One alone runs here, and so do several that are done sooner than processes have started.
    """
    if processes is None:
        decisions = sum((one.setting.end - one.setting.start) // one.setting.step for one in backtests)
        processes = (os.cpu_count() or 1) if len(backtests) > 1 and decisions > _WORTH_A_PROCESS else 1
    if processes == 1:
        return [one.run(partial(progress, number)) for number, one in enumerate(backtests)]
    found: dict[int, Outcome] = {}
    waiting = iter(enumerate(backtests))
    running: dict[Connection, _Worker] = {}
    try:
        while len(found) < len(backtests):
            while len(running) < processes and (job := next(waiting, None)) is not None:
                worker = _Worker.start(*job)
                running[worker.pipe] = worker
            ready = wait(list(running))
            for worker in [one for one in running.values() if one.pipe in ready]:
                said = worker.hear()
                if isinstance(said, float):
                    progress(worker.number, said)
                    continue
                del running[worker.pipe]
                found[worker.number] = said
    finally:
        for worker in running.values():
            worker.process.kill()
    return [found[number] for number in range(len(backtests))]


@dataclass(frozen=True, slots=True)
class _Worker:
    """A process that runs one backtest, and its pipe: shares done, then the outcome or the error."""

    number: int
    process: BaseProcess
    pipe: Connection

    @classmethod
    def start(cls, number: int, backtest: Backtest) -> "_Worker":
        """A new interpreter: a copy of this one would take its threads' locks with it."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(backtest, theirs), daemon=True)
        process.start()
        theirs.close()
        return cls(number, process, ours)

    def hear(self) -> "float | Outcome":
        """What it says next; raises what ended it."""
        try:
            said: float | Outcome | BaseException = self.pipe.recv()
        except EOFError:
            self.process.join()
            raise FluxError(f"a backtest ended early, with exit code {self.process.exitcode}") from None
        if isinstance(said, BaseException):
            raise said
        if isinstance(said, Outcome):
            self.process.join()
        return said


def _work(backtest: Backtest, pipe: Connection) -> None:
    """In the worker: tell how far it is, then what came of it."""
    with suppress(BrokenPipeError):  # nobody listens any more
        try:
            pipe.send(backtest.run(pipe.send))
        except FluxError as error:
            pipe.send(error)
        finally:
            pipe.close()
