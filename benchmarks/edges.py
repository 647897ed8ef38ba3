"""Edges by HTTPS on one `flux serve`: 200 of them, each with three requests that wait and a push each few seconds.

What it costs the server, how long a push takes, how soon a change is heard by those whom it concerns, and how many
connections of the database it takes. The edges are the adapter of `flux edge` itself, in one process of their own.
"""

import asyncio
import os
import random
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg

from flux.api.identity import Role
from flux.api.secret import load_secrets
from flux.api.tokens import issue_token
from flux.config import Settings
from flux.edge.https_link import HttpsLink
from flux.model import DeviceId, MeterReading
from flux.store.migrate import migrate
from flux.store.server import EmbeddedServer

EDGES = 200
DEVICES = 5
PUSH_EVERY_S = 10.0
SECONDS = 60.0
CHANGES = 20

_FILL = """
    INSERT INTO flux.mg_device_registry (name, type, site, metadata)
    SELECT format('S%%s-METER-%%s', s, d), 'meter', 'S' || s,
           '{"register_map": "acuvim2_standard", "meter_type": "load", "host": "10.0.0.9"}'
    FROM generate_series(1, %s) s, generate_series(1, %s) d
"""


class Fleet:
    """The edges, and what they see."""

    def __init__(self, links: dict[str, HttpsLink], devices: dict[str, list[DeviceId]]) -> None:
        self.links = links
        self.devices = devices
        self.pushes_s: list[float] = []
        self.heard: dict[str, float] = {}
        self.news = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for site, link in self.links.items():
                for work in (self._push, self._registry, self._control, self._jobs):
                    group.create_task(work(site, link))

    def _note(self, what: str) -> None:
        self.heard[what] = time.perf_counter()
        self.news.set()

    async def until_heard(self, names: set[str]) -> None:
        while not names <= self.heard.keys():
            self.news.clear()
            await self.news.wait()

    async def _push(self, site: str, link: HttpsLink) -> None:
        await asyncio.sleep(random.uniform(0, PUSH_EVERY_S))
        while True:
            now = datetime.now(UTC)
            batch = [
                MeterReading(device_id=device, time=now, power_total_active=1.0, frequency=50.0)
                for device in self.devices[site]
            ]
            began = time.perf_counter()
            result = await link.push(batch)
            self.pushes_s.append(time.perf_counter() - began)
            assert result.stored == len(batch), result
            await asyncio.sleep(PUSH_EVERY_S)

    async def _registry(self, site: str, link: HttpsLink) -> None:
        await link.registry()
        while True:
            if await link.wait_for_registry_change(60):
                self._note(site)
                await link.registry()

    async def _control(self, site: str, link: HttpsLink) -> None:
        cursor = None
        while True:
            feed = await link.control_feed(cursor, 60)
            if feed is not None:
                self._note(f"control {site}")
                cursor = feed.cursor

    async def _jobs(self, site: str, link: HttpsLink) -> None:
        while True:
            await link.take_job(f"edge {site}", "run", [], 60)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="flux-bench-", dir="/dev/shm") as folder:
        home = Path(folder)
        home.chmod(0o755)
        with EmbeddedServer(home, fast_unsafe=True) as server:
            migrate(server.dsn)
            with psycopg.connect(server.dsn, autocommit=True) as conn:
                conn.execute(_FILL, (EDGES, DEVICES))
            with _serving(home) as (url, pid):
                asyncio.run(_measure(server.dsn, pid, _fleet(server.dsn, url, home)))


def _fleet(dsn: str, url: str, home: Path) -> Fleet:
    secret = load_secrets(Settings(home=home))[0]
    devices: dict[str, list[DeviceId]] = {}
    with psycopg.connect(dsn) as conn:
        for site, device in conn.execute("SELECT site, id FROM flux.mg_device_registry").fetchall():
            devices.setdefault(site, []).append(DeviceId(device))
    return Fleet({site: HttpsLink(site, url, _key(secret, site).__str__) for site in devices}, devices)


def _key(secret: bytes, site: str) -> str:
    now = datetime.now(UTC)
    return issue_token(
        secret, role=Role.EDGE, name=f"edge {site}", issued_at=now, sites=[site], expires_at=now + timedelta(hours=1)
    )


async def _measure(dsn: str, pid: int, fleet: Fleet) -> None:
    running = asyncio.create_task(fleet.run())
    await asyncio.sleep(15)
    fleet.pushes_s.clear()
    cpu_s, ours_s, began = _cpu_s(pid), _own_cpu_s(), time.perf_counter()
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        one = [await _one_site(conn, fleet, number) for number in range(CHANGES)]
        everyone = [await _every_site(conn, fleet, number) for number in range(3)]
        await asyncio.sleep(max(0.0, SECONDS - (time.perf_counter() - began)))
        used_s, clients_s, took_s = _cpu_s(pid) - cpu_s, _own_cpu_s() - ours_s, time.perf_counter() - began
        rows = await (
            await conn.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'flux serve%'")
        ).fetchall()
    assert not running.done(), running.exception()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    for link in fleet.links.values():
        await link.close()
    pushes = sorted(fleet.pushes_s)
    print(f"{EDGES} edges, {3 * EDGES} requests waiting, a push of {DEVICES} readings each {PUSH_EVERY_S:g} s and edge")
    print(f"   server: {used_s / took_s:.1%} of a core over {took_s:.0f} s ({clients_s / took_s:.1%} for the edges)")
    print(f"   {len(pushes)} pushes: p50 {_at(pushes, 0.5) * 1e3:.1f} ms, p99 {_at(pushes, 0.99) * 1e3:.1f} ms")
    typical, most = statistics.median(one) * 1e3, max(one) * 1e3
    print(f"   a change of one site's registry: heard by its edge alone after {typical:.0f} ms, {most:.0f} at most")
    print(f"   a change of the market: heard by the last of {EDGES} after {max(everyone) * 1e3:.0f} ms")
    print(f"   connections of the database: {rows[0][0]}")


async def _one_site(conn: psycopg.AsyncConnection[Any], fleet: Fleet, number: int) -> float:
    """From before the commit until the edge has it; nobody else may be woken."""
    site = f"S{number + 1}"
    fleet.heard.clear()
    began = time.perf_counter()
    await conn.execute(
        "UPDATE flux.mg_device_registry SET metadata = metadata || '{\"note\": 1}' WHERE site = %s", (site,)
    )
    await fleet.until_heard({site})
    await asyncio.sleep(0.2)
    assert [name for name in fleet.heard if name.startswith("S")] == [site]
    return fleet.heard[site] - began


async def _every_site(conn: psycopg.AsyncConnection[Any], fleet: Fleet, number: int) -> float:
    fleet.heard.clear()
    began = time.perf_counter()
    await conn.execute(
        "INSERT INTO flux.market_data (time, type, value) SELECT date_bin('30 minutes', now(), '2000-01-01Z'), type, %s"
        " FROM unnest('{1,3}'::smallint[]) type ON CONFLICT (type, site, time) DO UPDATE SET value = excluded.value",
        (float(number + 1),),
    )
    await fleet.until_heard({f"control {site}" for site in fleet.links})
    return max(fleet.heard.values()) - began


@contextmanager
def _serving(home: Path) -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if key != "FLUX_DATABASE_URL"}
    command = [sys.executable, "-m", "flux", "serve", "--port", str(port)]
    process = subprocess.Popen(command, env=environment | {"FLUX_HOME": str(home), "FLUX_LOG_LEVEL": "WARNING"})
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{url}/healthz").status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(30)


def _cpu_s(pid: int) -> float:
    """CPU time of a process so far, in seconds (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _at(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]
