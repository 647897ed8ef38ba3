"""A simulated site in memory under control, in steps of 4 s: no sockets, no waiting."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from tests.edge.conftest import PLAN, devices_of, plan_of

from flux.control.decision import Decision
from flux.devices.driver import DeviceDriver
from flux.devices.registers import Function
from flux.devices.simulator import LoadConfig, MemoryTransport, SimulatedSite, memory_transport
from flux.edge.alarms import Alarms
from flux.edge.build import build_controller
from flux.edge.control_loop import SiteController
from flux.edge.newest import NewestPolls
from flux.model import CommandSource, DeviceError

STEP = timedelta(seconds=4)


class Wire:
    """A device's registers in memory, with a line that can be cut, a note of what was written, and answers made up."""

    def __init__(self, inner: MemoryTransport) -> None:
        self.inner = inner
        self.cut = False
        self.refuses_writes = False
        self.loses_answers: frozenset[int] = frozenset()
        self.writes: list[int] = []
        self.answers: dict[int, list[int]] = {}

    async def read(
        self, unit: int, address: int, count: int, *, function: Function = Function.HOLDING
    ) -> Sequence[int]:
        if self.cut:
            raise DeviceError("the line is cut")
        words = list(await self.inner.read(unit, address, count, function=function))
        for at, answer in self.answers.items():
            for number, word in enumerate(answer):
                if 0 <= at + number - address < count:
                    words[at + number - address] = word
        return words

    async def write(self, unit: int, address: int, words: Sequence[int]) -> None:
        if self.cut or self.refuses_writes:
            raise DeviceError("not acknowledged")
        self.writes.append(address)
        await self.inner.write(unit, address, words)
        if address in self.loses_answers:
            raise DeviceError("no answer")


POWER, MODE = 1020, 1000


class Rig:
    """A simulated site under control, in steps of 4 s."""

    def __init__(self, site: SimulatedSite, plan: str = PLAN) -> None:
        self.site = site
        self.clock_ahead = timedelta()
        self.halted: str | None = None
        self.wires = {one.name: Wire(memory_transport(site, one.name)) for one in site.devices}
        self.newest = NewestPolls()
        self.drivers = {
            one.name: DeviceDriver(
                one, site.device(one.name).template, self.wires[one.name], self.now, without_timeout=True
            )
            for one in devices_of(site)
        }
        self.alarms = Alarms(lambda: site.time)
        self.heard: list[str] = []
        self.withheld: str | None = None
        self.controller = self.new_controller(plan)

    def tell(self, key: str, text: str | None) -> None:
        """Keep what was raised, in order, besides what is up now."""
        if text is not None and key not in self.up:
            self.heard.append(key)
        self.alarms.set_or_clear(key, text)

    @property
    def up(self) -> list[str]:
        return [alarm.key for alarm in self.alarms.active]

    def new_controller(self, plan: str = PLAN) -> SiteController:
        return build_controller(
            plan_of(plan),
            self.drivers,
            self.newest,
            clock=self.now,
            halt=lambda: self.halted,
            withheld=lambda: self.withheld,
            tell=self.tell,
        )

    def now(self) -> datetime:
        """The edge's clock, which may be wrong."""
        return self.site.time + self.clock_ahead

    def set_load(self, load_kw: float) -> None:
        """What the site draws beside the battery from now on."""
        other = self.site.config.model_copy(update={"load": LoadConfig(constant_kw=load_kw)})
        self.site._load = SimulatedSite(other, self.site.time)._load

    @property
    def bess(self) -> Wire:
        return self.wires["WLCE-BESS-01"]

    @property
    def battery_kw(self) -> float:
        return self.site.battery("WLCE-BESS-01").power_kw

    @property
    def power_writes(self) -> int:
        return self.bess.writes.count(POWER)

    async def step(self, count: int = 1) -> Decision:
        """Let 4 s pass, poll, and run a cycle; ``count`` times."""
        for _ in range(count):
            self.site.step(self.site.time + STEP)
            await self.poll()
            decision = await self.controller.cycle(self.now())
        return decision

    async def poll(self) -> None:
        for name in self.controller.needed:
            driver = self.drivers[name]
            if not self.wires[name].cut:
                self.newest.put(name, await driver.poll(driver.control_names))

    def source(self) -> CommandSource:
        return self.controller.batteries[0].command_source(self.site.time)
