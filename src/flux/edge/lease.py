"""The site's control lease: the platform gives it to one edge, and a second one records only.

The holder renews it while it is connected and goes on without when the platform is away. What the platform said last
is kept on disk, so that an edge that is started while the platform is away knows whether it may command.

A holder that alone is cut off from the platform goes on as well, and after five minutes another edge may get its lease.
That one is told that it took over (``took_over``), and commands nothing before the batteries rest.
"""

import asyncio
import json
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import structlog

from flux.edge.alarms import Alarms
from flux.edge.link import PlatformLink
from flux.edge.ticks import Sleep
from flux.model import NotFoundError, UnavailableError

_logger = structlog.get_logger(__name__)

LEASE_FILE = "lease.json"
LASTS = timedelta(minutes=5)
"""Until another edge may have the lease of one that is gone without giving it back."""
_RENEW_S = 20.0
_RETRY_S = 5.0
_ALARM = "control_lease"


class ControlLease:
    """Whether this edge may command the batteries of its site. ``wanted``: whether it has a plan at all."""

    def __init__(
        self,
        link: PlatformLink,
        state_dir: Path,
        alarms: Alarms,
        *,
        wanted: Callable[[], bool] = lambda: True,
        took_over: Callable[[], None] = lambda: None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._link = link
        self._path = state_dir / LEASE_FILE
        self._alarms = alarms
        self._wanted = wanted
        self._took_over = took_over
        self._sleep = sleep
        self._host = socket.gethostname()
        self._holder: str | None = None
        self._granted = False
        self._token: int | None = None
        self._saved: tuple[str, bool, int | None] | None = None
        self._refusal: str | None = "the platform has not given this edge the control lease yet"

    @property
    def holder(self) -> str:
        """This edge's own name; the one on disk once it is loaded."""
        if self._holder is None:
            self.load()
        assert self._holder is not None  # noqa: S101 - load makes one
        return self._holder

    @property
    def refusal(self) -> str | None:
        """Why this edge may command nothing; None: it may."""
        return None if self._granted else self._refusal

    def load(self) -> None:
        """What the platform said last, and this edge's own name; made anew where there is no file that can be read."""
        try:
            body = json.loads(self._path.read_text(encoding="utf-8"))
            self._holder, self._granted = str(body["holder"]), body["granted"] is True
            self._token = body.get("token")
            self._saved = (self._holder, self._granted, self._token)
        except (OSError, ValueError, KeyError, TypeError) as error:
            if not isinstance(error, FileNotFoundError):
                _logger.warning("the control lease on disk can't be read, it is asked for anew", error=str(error))
            self._holder, self._granted = f"{self._host} {uuid4()}", False

    async def ask(self) -> None:
        """Take or renew it; UnavailableError when the platform is away, and all stays as it was."""
        if self._holder is None:
            self.load()
        assert self._holder is not None  # noqa: S101 - load makes one
        await asyncio.to_thread(self._save)  # an answer that is lost must not leave the lease with a name nobody has
        problem = None
        try:
            answer = await self._link.take_lease(self._holder, self._host, LASTS)
        except NotFoundError as error:  # of a site that is not there nobody else has the lease: who had it goes on
            self._refusal = problem = str(error)
        else:
            self._granted = answer.granted
            if answer.granted and answer.token != self._token:
                if answer.token > 1:
                    _logger.info("the control lease was taken over from another edge", token=answer.token)
                    self._took_over()
                self._token = answer.token
            who = f"another edge, on {answer.host} ({answer.holder.rpartition(' ')[2]})"
            self._refusal = f"the control lease of the site is with {who}; this edge records only"
        self._alarms.set_or_clear(_ALARM, problem or self.refusal)
        await asyncio.to_thread(self._save)

    async def run(self) -> None:
        """Renew it for ever."""
        while True:
            if not self._wanted():
                await self._sleep(_RETRY_S)
                continue
            try:
                await self.ask()
            except UnavailableError:  # the uploader's alarm tells of it
                self._alarms.set_or_clear(_ALARM, self.refusal)
            await self._sleep(_RENEW_S if self._granted else _RETRY_S)

    async def release(self) -> None:
        """Give it back once nothing is commanded any more; UnavailableError when the platform is away."""
        if self._granted and self._holder is not None:
            await self._link.release_lease(self._holder)

    def _save(self) -> None:
        """A disk that refuses is told once; the platform will say it again."""
        assert self._holder is not None  # noqa: S101 - asked for before it is saved
        state = (self._holder, self._granted, self._token)
        if state == self._saved:
            return
        draft = self._path.with_name(self._path.name + ".new")
        body = {"holder": self._holder, "granted": self._granted, "token": self._token}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(body) + "\n", encoding="utf-8")
            draft.replace(self._path)
        except OSError as error:
            self._alarms.set("control_lease_file", f"{self._path}: {error.strerror}")
        else:
            self._saved = state
            self._alarms.clear("control_lease_file")
