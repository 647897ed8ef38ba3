"""Tasks that are kept running: one that crashes is logged whole and started again after a delay that grows."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from flux.edge.alarms import Alarms
from flux.edge.ticks import Sleep

_logger = structlog.get_logger(__name__)

_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 60.0
_HEALTHY_AFTER_S = 120.0


class Background:
    """The tasks of one edge, by name."""

    def __init__(self, alarms: Alarms, sleep: Sleep = asyncio.sleep) -> None:
        self._alarms = alarms
        self._sleep = sleep
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Keep ``work`` running under ``name``."""
        if name in self._tasks:
            raise ValueError(f"task {name} runs already")
        self._tasks[name] = asyncio.create_task(self._keep(name, work), name=name)

    def running(self, name: str) -> bool:
        return name in self._tasks

    async def stop(self, *names: str) -> None:
        """Cancel these and wait until they have ended; all of them when no name is given."""
        tasks = [self._tasks.pop(name) for name in (names or tuple(self._tasks)) if name in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # each has told of its own crashes

    async def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        delay_s = _FIRST_DELAY_S
        while True:
            began = loop.time()
            healthy = loop.call_later(_HEALTHY_AFTER_S, self._alarms.clear, f"crashed:{name}")
            try:
                return await work()
            except Exception as error:
                lived_s = loop.time() - began
                delay_s = _FIRST_DELAY_S if lived_s > _HEALTHY_AFTER_S else delay_s
                _logger.exception("task crashed and is started again", task=name, delay_s=delay_s)
                self._alarms.set(f"crashed:{name}", f"{name} crashed: {type(error).__name__}: {error}")
            finally:
                healthy.cancel()
            await self._sleep(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
