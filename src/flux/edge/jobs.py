"""Takes the jobs of the site from the platform, runs each beside everything else, and says what became of it.

Nothing here is waited for by poller or controller. An answer is said again until the platform has heard it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import structlog

from flux.edge.link import JobAnswer, PlatformLink
from flux.edge.ticks import Sleep
from flux.model import FluxError, Job, JobKind, UnavailableError

_logger = structlog.get_logger(__name__)

Run = Callable[[Job], Awaitable[JobAnswer]]
"""Runs a job; what it raises of FluxError is why it failed."""

_ASK_EVERY_S = 60.0
_RETRY_S = 5.0
_MOST_AT_ONCE = 8
_LIMITS_S = {JobKind.SCAN: 480.0, JobKind.TEST: 120.0, JobKind.SET_POINT: 60.0, JobKind.STOP: 120.0}
"""The platform takes an edge for dead that has not answered after ten minutes."""


class JobRunner:
    """One per edge. ``holder``: the edge's own name, once it is known."""

    def __init__(
        self, link: PlatformLink, run: Run, holder: Callable[[], str], *, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._link = link
        self._run = run
        self._holder = holder
        self._sleep = sleep
        self._this_run = str(uuid4())
        self._tasks: dict[UUID, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Take and run jobs for ever; what runs when this is cancelled is cancelled too, and not answered."""
        try:
            while True:
                if len(self._tasks) >= _MOST_AT_ONCE:
                    await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
                try:
                    job = await self._link.take_job(self._holder(), self._this_run, list(self._tasks), _ASK_EVERY_S)
                except UnavailableError:  # the uploader's alarm tells of it
                    await self._sleep(_RETRY_S)
                    continue
                if job is not None and job.id not in self._tasks:
                    _logger.info("job", kind=job.kind, id=str(job.id), by=job.created_by, args=job.args)
                    self._tasks[job.id] = task = asyncio.create_task(self._work(job), name=f"job {job.kind}")
                    task.add_done_callback(lambda _task, job_id=job.id: self._tasks.pop(job_id, None))  # type: ignore[misc]
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, job: Job) -> None:
        answer = await self._answer(job)
        _logger.info("job is over", kind=job.kind, id=str(job.id), error=answer.error)
        while True:
            try:
                if not await self._link.finish_job(job.id, self._holder(), self._this_run, answer):
                    _logger.warning("the platform had given the job up", kind=job.kind, id=str(job.id))
            except UnavailableError:
                await self._sleep(_RETRY_S)
            except FluxError as error:
                _logger.warning("the platform does not take what became of a job", id=str(job.id), error=str(error))
                return
            else:
                return

    async def _answer(self, job: Job) -> JobAnswer:
        limit_s = _LIMITS_S[job.kind]
        try:
            async with asyncio.timeout(limit_s):
                return await self._run(job)
        except TimeoutError:
            return JobAnswer(error=f"not done within {limit_s:g} s")
        except FluxError as error:
            return JobAnswer(error=str(error))
        except Exception as error:  # a bug in one job must not end the others, nor leave it without an answer
            _logger.exception("job crashed", kind=job.kind, id=str(job.id))
            return JobAnswer(error=f"the edge failed at it: {type(error).__name__}: {error}")
