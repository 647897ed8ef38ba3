"""An edge by HTTPS on a platform in trouble: whatever it answers, or does not, all is as before once it is well.

In virtual time, on the real link; the platform is in memory, and errs at random.
"""

import asyncio
import gzip
import json
import random
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from tests.edge.fakes import MemoryOutbox, VirtualClock, meter_reading, run_virtual
from tests.edge.test_platform import device

from flux.control.feed import ControlFeed
from flux.edge.alarms import Alarms
from flux.edge.background import Background
from flux.edge.feed import FeedFollower
from flux.edge.https_link import HttpsLink
from flux.edge.jobs import JobRunner
from flux.edge.learned import LearnedStore
from flux.edge.lease import ControlLease
from flux.edge.link import JobAnswer, RegistrySnapshot
from flux.edge.platform import ClockCheck, RegistryFollower, StateReporter
from flux.edge.recorder import Recorder
from flux.edge.uploader import Uploader
from flux.model import Device, DeviceState, Job
from flux.registry.for_edges import StopOrder, cursor_of
from flux.store.batches import decode_batch

WELL_AGAIN_S = 120.0
"""A request that hangs is given up after its 45 s of waiting and 40 s more, and repeated."""
_HTML = {"text": "<html>Bad gateway</html>", "headers": {"content-type": "text/html"}}
_EMPTY: dict[str, Any] = {"cursor": "0", "devices": [], "templates": {}, "stop": None, "resumed_at": None}


def _says(status: int, **what: Any) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _request: httpx.Response(status, **what)


def _raises(make: Callable[[], Exception]) -> Callable[[httpx.Request], httpx.Response]:
    def answer(_request: httpx.Request) -> httpx.Response:
        raise make()

    return answer


TROUBLES: dict[str, Callable[[httpx.Request], httpx.Response]] = {
    "refused": _raises(lambda: httpx.ConnectError("All connection attempts failed")),
    "reset": _raises(lambda: httpx.ReadError("")),
    "protocol": _raises(lambda: httpx.RemoteProtocolError("Server disconnected")),
    "timeout": _raises(lambda: httpx.ReadTimeout("")),
    "pool": _raises(lambda: httpx.PoolTimeout("")),
    "tls": _raises(lambda: ssl.SSLError("bad record mac")),
    "route": _raises(lambda: OSError(113, "No route to host")),
    "failed": _says(500, **_HTML),
    "gateway": _says(502, **_HTML),
    "unavailable": _says(503, json={"error": "unavailable", "message": "try again"}),
    "no page": _says(404, **_HTML),
    "no route": _says(404, json={"error": "not_found", "message": "no such upstream"}),
    "conflict": _says(409, json={"error": "conflict", "message": "deploying"}),
    "input": _says(422, json={"error": "input", "message": "not read"}),
    "login": _says(302, headers={"location": "https://login.example/"}),
    "key": _says(401, json={"error": "key", "message": "the key has been revoked"}),
    "page": _says(200, **_HTML),
    "list": _says(200, json=[]),
    "object": _says(200, json={}),
    "null": _says(200, json=None),
    "nothing": _says(204),
    "half": _says(200, content=b'{"granted": tr', headers={"content-type": "application/json"}),
    "types": _says(200, json={"granted": "no", "devices": 1, "cursor": None, "feed": [], "time": 7, "refusals": {}}),
    "empty": _says(200, json=_EMPTY),
}


class Platform(httpx.AsyncBaseTransport):
    """What `/edge/v1` answers of its state in memory; in ``trouble`` it errs, at random."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.trouble = False
        self.snapshot = RegistrySnapshot((device(DeviceState.TESTING),))
        self.feed = ControlFeed()
        self.holder: str | None = None
        self.stored: set[Any] = set()
        self.jobs: list[Job] = []
        self.answers: dict[str, Any] = {}
        self._changed = asyncio.Event()

    def change(self) -> None:
        """Wake who waits."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(self.chance.uniform(0.001, 0.05))
        if not self.trouble:
            return await self._answer(request)
        fate = self.chance.random()
        if fate < 0.15:  # nobody ever answers
            await asyncio.sleep(100_000)
        if fate < 0.35:  # done, and its answer is lost
            await self._answer(request)
            raise httpx.ReadError("")
        if fate < 0.5:
            return await self._answer(request)
        return TROUBLES[self.chance.choice(list(TROUBLES))](request)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        parts = urlsplit(str(request.url))
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        match parts.path.removeprefix("/edge/v1").split("/")[1:]:
            case ["push"]:
                records = decode_batch(gzip.decompress(request.content))
                new = set(records) - self.stored
                self.stored |= new
                counts = {"stored": len(new), "duplicates": len(records) - len(new)}
                return httpx.Response(200, json={**counts, "rejected": 0, "refusals": []})
            case ["registry"]:
                return await self._newer(asked, lambda: {"cursor": cursor_of(self._registry()), **self._registry()})
            case ["control"]:
                return await self._newer(asked, lambda: {"cursor": self.feed.cursor, "feed": self.feed.to_json()})
            case ["time"]:
                return httpx.Response(200, json={"time": VirtualClock()().isoformat()})
            case ["lease"]:
                said = json.loads(request.content)
                self.holder = self.holder or said["holder"]
                granted = self.holder == said["holder"]
                return httpx.Response(200, json={"granted": granted, "holder": self.holder, "host": "x", "token": 1})
            case ["devices", _, "state"]:
                state = DeviceState(json.loads(request.content)["state"])
                devices = tuple(one.model_copy(update={"state": state}) for one in self.snapshot.devices)
                self.snapshot = RegistrySnapshot(devices, stop=self.snapshot.stop)
                self.change()
                return httpx.Response(204)
            case ["jobs", "take"]:
                return await self._job(json.loads(request.content))
            case ["jobs", number, "finish"]:
                self.answers.setdefault(number, json.loads(request.content)["result"])
                return httpx.Response(200, json={"kept": True})
        raise AssertionError(parts.path)

    def _registry(self) -> dict[str, Any]:
        return self.snapshot.to_json()

    async def _newer(self, asked: dict[str, str], now: Callable[[], dict[str, Any]]) -> httpx.Response:
        changed = self._changed
        if now()["cursor"] == asked.get("after"):
            await self._wait(changed, float(asked["wait"]))
        return httpx.Response(204) if now()["cursor"] == asked.get("after") else httpx.Response(200, json=now())

    async def _job(self, asked: dict[str, Any]) -> httpx.Response:
        changed = self._changed
        if not (found := self._open(asked)):
            await self._wait(changed, asked["wait"])
            found = self._open(asked)
        return httpx.Response(200, json=found[0].model_dump(mode="json")) if found else httpx.Response(204)

    def _open(self, asked: dict[str, Any]) -> list[Job]:
        return [job for job in self.jobs if str(job.id) not in self.answers and str(job.id) not in asked["have"]]

    @staticmethod
    async def _wait(changed: asyncio.Event, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await changed.wait()
        except TimeoutError:
            return


class Edge:
    """All of an edge that speaks to its platform; devices and batteries are the story's."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        clock = VirtualClock()
        self.alarms = Alarms(clock)
        self.background = Background(self.alarms)
        self.link = link = HttpsLink("WLCE", "http://flux.example", lambda: "key", transport=platform)
        learned = LearnedStore(folder / "learned.sqlite", clock)
        self.recorder = Recorder(MemoryOutbox(), self.alarms, 100_000)
        self.uploader = Uploader(
            self.recorder, link, self.alarms, 5000, timer=lambda: asyncio.get_running_loop().time()
        )
        self.feed = FeedFollower(link, learned)
        self.lease = ControlLease(link, folder, self.alarms)
        self.reporter = StateReporter(link)
        self.applied: list[RegistrySnapshot] = []
        self.registry = RegistryFollower(link, learned, self._apply, alarms=self.alarms)
        self.jobs = JobRunner(link, self._run, lambda: self.lease.holder)
        self.clock_check = ClockCheck(link, self.alarms, clock)
        self.crashed: set[str] = set()

    async def _apply(self, snapshot: RegistrySnapshot) -> None:
        self.applied.append(snapshot)
        self.reporter.follow(snapshot.devices)

    @staticmethod
    async def _run(job: Job) -> JobAnswer:
        await asyncio.sleep(1)
        return JobAnswer(result={"by": job.created_by})

    def start(self) -> None:
        for name, work in {
            "outbox": self.recorder.run,
            "uploader": self.uploader.run,
            "registry": self.registry.run,
            "feed": self.feed.run,
            "states": self.reporter.run,
            "clock": self.clock_check.run,
            "lease": self.lease.run,
            "jobs": self.jobs.run,
        }.items():
            self.background.start(name, work)

    async def live(self, seconds: float, number: int) -> int:
        """Record a reading a second and look; the number of the next reading."""
        for _ in range(round(seconds)):
            await asyncio.sleep(1)
            self.recorder.record([meter_reading(number)])
            number += 1
            if self.applied:
                self.reporter.answered(self.applied[-1].devices[0])
            self.crashed |= {alarm.key for alarm in self.alarms.active if alarm.key.startswith("crashed")}
        return number


def ordered(number: int) -> Job:
    return Job.model_validate(
        {
            "id": f"00000000-0000-0000-0000-{number:012}",
            "site": "WLCE",
            "kind": "test",
            "args": {"device": "WLCE-GRID-METER"},
            "created_by": f"anna {number}",
            "created_at": "2026-01-15T12:00:00Z",
            "expires_at": "2026-01-16T12:00:00Z",
            "taken_at": None,
            "taken_by": None,
            "finished_at": None,
            "result": None,
            "error": None,
            "state": "waiting",
        }
    )


def renamed(snapshot: RegistrySnapshot, number: int) -> RegistrySnapshot:
    one: Device = snapshot.devices[0].model_copy(update={"name": f"METER-{number}"})
    return RegistrySnapshot((one,), stop=StopOrder("anna", f"outage {number}") if number % 2 else None)


@pytest.mark.parametrize(
    ("seed", "outages"), [(0, 2), *(pytest.param(n, 8, marks=pytest.mark.long) for n in range(1, 25))]
)
def test_whatever_a_platform_in_trouble_answers_all_is_as_before_when_it_is_well(
    seed: int, outages: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", at_once)

    async def story() -> None:
        chance = random.Random(seed)
        platform = Platform(chance)
        edge = Edge(platform, tmp_path)
        edge.start()
        number = await edge.live(10, 0)
        assert edge.lease.refusal is None
        for outage in range(outages):
            platform.trouble = True
            number = await edge.live(chance.uniform(5, 200), number)
            platform.snapshot = renamed(platform.snapshot, outage)
            platform.jobs.append(ordered(outage))
            platform.change()
            number = await edge.live(chance.uniform(5, 200), number)
            assert edge.lease.refusal is None, "nobody else has the lease"
            assert all(one.devices for one in edge.applied), "devices were forgotten"
            platform.trouble = False
            number = await edge.live(WELL_AGAIN_S, number)
            assert edge.applied[-1] == platform.snapshot
            assert platform.snapshot.devices[0].state is DeviceState.ACTIVE
            assert edge.feed.feed == platform.feed
            assert set(platform.answers) == {str(job.id) for job in platform.jobs}
            assert len(platform.stored) >= number - 2
            assert edge.alarms.active == ()
        assert edge.crashed == set()
        await edge.background.stop()
        await edge.link.close()

    run_virtual(story())
