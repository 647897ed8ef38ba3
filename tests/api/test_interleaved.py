"""Connections pass from caller to caller: no answer carries what was another's, whatever became of the one before."""

import asyncio
import random
from dataclasses import dataclass

import httpx
import psycopg
from tests.api.fleet import CANARY
from tests.api.live import LiveServer

PATHS = (
    "/rest/v1/mg_device_registry",
    "/rest/v1/mg_meter_readings?select=device_id,mg_device_registry(name)&limit=200",
    "/rest/v1/mg_device_registry?select=name::int",
    "/rest/v1/nothing",
    "/v1/devices",
    "/v1/export/readings",
    "/v1/sites/nowhere/control",
    "/edge/v1/registry",
    "/metrics",
)
"""Answers of one round trip, of several, of a whole session; and those that break off in the middle."""
SITES = ("WLCE", "HMCE")


@dataclass(frozen=True, slots=True)
class Fleet:
    server: LiveServer
    foreign: dict[str, list[str]]
    """By site: what stands in rows of the other one alone."""


def test_no_answer_carries_anothers_rows(fleet_server: LiveServer) -> None:
    with psycopg.connect(fleet_server.dsn) as conn:
        rows = conn.execute("SELECT site, id::text FROM flux.mg_device_registry").fetchall()
    ids = {site: [id_ for of, id_ in rows if of == site] for site in SITES}
    foreign = {"WLCE": [CANARY, "HMCE-", *ids["HMCE"]], "HMCE": ["WLCE-", *ids["WLCE"]]}
    answered = asyncio.run(_ask(Fleet(fleet_server, foreign), 100))
    assert answered > 50, "some are given up on purpose, most are not"


async def _ask(fleet: Fleet, times: int) -> int:
    """From several clients at once, in no order; a fifth of them hangs up before the answer. How many had one."""
    order = random.Random(7)
    plan = [(order.choice(PATHS), order.choice(SITES), order.random()) for _ in range(times)]
    places = asyncio.Semaphore(12)
    async with httpx.AsyncClient(base_url=fleet.server.url, timeout=30) as http:

        async def one(path: str, site: str, fate: float) -> bool:
            role = "edge" if path.startswith("/edge") else ("authenticated", "operator", "service")[int(fate * 30) % 3]
            headers = fleet.server.headers(role, [site], name=f"{role} {site}")
            async with places:
                asked = asyncio.create_task(http.get(path, headers=headers))
                done, _ = await asyncio.wait([asked], timeout=fate / 10 if fate < 0.2 else None)
                if not done:
                    asked.cancel()
                    await asyncio.gather(asked, return_exceptions=True)
                    return False
            answer = asked.result()
            assert answer.status_code < 500, (path, answer.text)
            assert not [mark for mark in fleet.foreign[site] if mark in answer.text], (path, role, site)
            return True

        return sum(await asyncio.gather(*(one(*request) for request in plan)))
