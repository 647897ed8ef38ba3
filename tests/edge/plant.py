"""A simulated site on real Modbus, its devices in a real registry, and what is needed to run its edge."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection
from tests.edge.both import MakeLink
from tests.edge.conftest import PLAN

from flux.devices.simulator import Reply, SimulatedSite, SimulatorServer
from flux.edge.config import load_site_file
from flux.edge.link import PlatformLink
from flux.edge.runtime import EdgeRuntime
from flux.edge.sql_link import SqlLink
from flux.edge.ticks import system_clock
from flux.model import UnavailableError
from flux.registry import NewDevice, add_device

Rows = list[tuple[Any, ...]]
FAST = {"interval: 4s": "interval: 300ms", "max_reading_age: 10s": "max_reading_age: 2s"}


class Switch:
    """A platform link that can be cut off, in front of the real one."""

    def __init__(self, inner: PlatformLink) -> None:
        self._inner = inner
        self.away = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._inner, name)

        async def call(*arguments: Any) -> Any:
            if self.away:
                raise UnavailableError("the platform is away")
            return await real(*arguments)

        return call if name != "close" else real


class Plant:
    """A simulated site on Modbus, its devices in the registry, and what is needed to run its edge."""

    def __init__(
        self, server: SimulatorServer, dsn: str, db: AsyncConnection[Any], home: Path, make_link: MakeLink
    ) -> None:
        self.server = server
        self.dsn = dsn
        self.db = db
        self.home = home
        self.replies: list[Reply] = []
        self.make_link = make_link
        self.link = Switch(make_link("WLCE"))

    @property
    def battery_kw(self) -> float:
        return self.server.site.battery("WLCE-BESS-01").power_kw

    def edge(
        self, plan: str = PLAN, recording: str = "1s", home: Path | None = None, link: Switch | None = None
    ) -> EdgeRuntime:
        """An edge; one with another ``home`` is like one on another host.

        One with a ``link`` of its own never waits longer than half a second for its next try.
        """

        async def soon(seconds: float) -> None:
            await asyncio.sleep(min(seconds, 0.5))

        home = home or self.home
        path = self.write_site_file(plan, recording, home)
        platform = self.dsn if home == self.home else f"{self.dsn} from {home}"
        if link is None:
            return EdgeRuntime(load_site_file(path), self.link, home, platform=platform)
        return EdgeRuntime(load_site_file(path), link, home, platform=platform, sleep=soon)

    def write_site_file(self, plan: str = PLAN, recording: str = "1s", home: Path | None = None) -> Path:
        for old, new in FAST.items():
            plan = plan.replace(old, new)
        path = (home or self.home) / "site.yaml"
        path.write_text(f"site: WLCE\nrecording: {{polling_interval: {recording}}}\n{plan}")
        return path

    async def rows(self, query: str) -> Rows:
        return await (await self.db.execute(query.encode())).fetchall()

    async def stored(self) -> int:
        query = "SELECT (SELECT count(*) FROM flux.mg_meter_readings) + (SELECT count(*) FROM flux.mg_bess_readings)"
        return int((await self.rows(query))[0][0])

    async def until(self, what: Callable[[], Awaitable[bool] | bool], within_s: float = 30.0) -> None:
        async with asyncio.timeout(within_s):
            while True:
                now = what()
                if now if isinstance(now, bool) else await now:
                    return
                await asyncio.sleep(0.05)


@asynccontextmanager
async def running_plant(
    site: SimulatedSite, dsn: str, db: AsyncConnection[Any], home: Path, make_link: MakeLink | None = None
) -> AsyncIterator[Plant]:
    """Serve ``site`` and register its devices; the link of its edges is ``make_link``'s, by default one by SQL."""
    replies: list[Reply] = []
    async with SimulatorServer(site, system_clock, on_reply=replies.append) as server, AsyncExitStack() as made:

        def make(of_site: str) -> PlatformLink:
            link = make_link(of_site) if make_link else SqlLink(of_site, lambda: dsn)
            made.push_async_callback(link.close)  # an edge that is cut off in the middle leaves its own open
            return link

        plant = Plant(server, dsn, db, home, make)
        plant.replies = replies
        for device in server.devices:
            new = NewDevice(name=device.name, type=device.type, site="WLCE", metadata=device.metadata)
            await add_device(db, new, actor="test")
        yield plant
