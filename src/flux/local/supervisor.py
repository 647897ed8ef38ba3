"""Child processes of `flux up`: started in order, restarted after a growing delay when they crash, stopped in reverse.

Each child writes to a log file of its own. It has a session of its own, so that Ctrl-C reaches the supervisor alone,
and it ends when the supervisor's end of its standard input closes, so that a killed supervisor leaves no orphan that
goes on controlling a battery.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import structlog

from flux.errors import FluxError, InputError, NotFoundError, RefusedError

SUPERVISED_VARIABLE = "FLUX_SUPERVISED"
"""Set in a child's environment: it ends when its standard input does."""

_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 30.0
_HEALTHY_AFTER_S = 60.0
_STOP_TIMEOUT_S = 20.0
_REFUSALS: dict[int | None, type[FluxError]] = {
    error.exit_code: error for error in (InputError, NotFoundError, RefusedError)
}
"""Exit codes of a child that would end the same way however often it was started: somebody has to mend something."""
_logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One child: ``arguments`` are those of the `flux` command."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]


class Child:
    """One supervised process; ``async with`` or :meth:`start` and :meth:`stop`."""

    def __init__(self, spec: ChildSpec, log_file: Path) -> None:
        self.spec = spec
        self.log_file = log_file
        self.restarts = 0
        self.refusal: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()
        """Gets an exception when the very first start ended with an exit code that no other start would change."""
        self._log_start = 0
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.returncode

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        self._process = process = await self._spawn()
        self._task = asyncio.create_task(self._watch(process), name=f"supervise {self.spec.name}")

    async def stop(self) -> None:
        """Ask it to end (SIGTERM), and after 20 s insist (SIGKILL)."""
        if not self.refusal.cancel() and not self.refusal.cancelled():
            self.refusal.exception()  # looked at: asyncio complains of one that nobody has seen
        if self._task is not None:
            await stopped(self._task)
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            _logger.warning("%s did not end in %d s and was killed", self.spec.name, _STOP_TIMEOUT_S)
            process.kill()
            await process.wait()

    def last_lines(self, count: int = 5) -> list[str]:
        """The end of its log, for a message."""
        try:
            return self.log_file.read_text(errors="replace").splitlines()[-count:]
        except FileNotFoundError:
            return []

    def _last_words(self) -> str:
        """The error with which the present process ended, as it told it; it may have several lines."""
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            text = log.read().decode(errors="replace")
        return f"\n{text}".rpartition("\nerror: ")[2].strip()

    async def _spawn(self) -> asyncio.subprocess.Process:
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log:
            self._log_start = log.tell()
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "flux",
                *self.spec.arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **self.spec.environment, SUPERVISED_VARIABLE: "1"},
            )

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        delay_s = _FIRST_DELAY_S
        while True:
            started = loop.time()
            code = await process.wait()
            if code in _REFUSALS and not self.restarts and not self.refusal.done():
                self.refusal.set_exception(_REFUSALS[code](self._last_words() or f"{self.spec.name} ended at once"))
                return
            delay_s = _FIRST_DELAY_S if loop.time() - started > _HEALTHY_AFTER_S else delay_s
            _logger.warning("child ended and is started again", child=self.spec.name, exit_code=code, delay_s=delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
            self.restarts += 1
            try:
                self._process = process = await self._spawn()
            except OSError as error:  # no memory, no descriptors: that passes, and the child is needed
                _logger.error("child cannot be started", child=self.spec.name, error=str(error))  # noqa: TRY400 - not a bug


async def stopped(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end; raises what had ended it before."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


class Supervisor:
    """Children in the order in which they start; stopped in reverse when the ``async with`` ends, whatever ended it."""

    def __init__(self, log_folder: Path) -> None:
        self._log_folder = log_folder
        self.children: list[Child] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self.children:
            await self.children.pop().stop()

    async def start(self, spec: ChildSpec) -> Child:
        child = Child(spec, self._log_folder / f"{spec.name}.log")
        await child.start()
        self.children.append(child)
        return child

    async def while_accepted(self, work: Coroutine[Any, Any, object]) -> None:
        """Do ``work``; when meanwhile a child refuses to run at all, its error is raised in place of going on."""
        task = asyncio.create_task(work)
        try:
            ends: list[asyncio.Future[Any]] = [task, *(child.refusal for child in self.children)]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for child in self.children:
                if child.refusal.done():
                    child.refusal.result()
            await task
        finally:
            await stopped(task)
