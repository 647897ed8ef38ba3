"""Market platforms on loopback that behave like the real ones, trouble included."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from flux.market.http import Manners, MarketHttp
from flux.model import SettlementPeriod, periods_in_day

QUICK = Manners(attempts=3, wait_initial_s=0, wait_max_s=0, wait_jitter_s=0, failures=2, rest_s=60)
"""Retries without waiting; the pace is as in earnest, by the test's own clock."""


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """``cut``: send only so many bytes of the body, and close; ``hang``: send nothing until the client gives up."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    hang: bool = False

    def encoded(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


Answer = Callable[[Request], Reply]


class Platform:
    """One HTTP server: ``trouble`` is served first, a reply for each request, then what ``answer`` says."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.trouble: list[Reply] = []
        self.requests: list[Request] = []
        self.url = ""
        self._serving: set[asyncio.Task[Any]] = set()

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Platform"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while (request := await _read(reader)) is not None:
                self.requests.append(request)
                reply = self.trouble.pop(0) if self.trouble else self.answer(request)
                if reply.hang:
                    await reader.read()  # until the client has gone
                    return
                body = reply.encoded()
                headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **reply.headers}
                head = f"HTTP/1.1 {reply.status} Status\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
                writer.write(head.encode() + b"\r\n" + body[: reply.cut])
                await writer.drain()
                if reply.cut is not None:
                    return
        except asyncio.CancelledError:
            pass  # the end of the test: a stream's own callback would complain of it
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.strip().split("\r\n")
    method, target, _ = first.split()
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    url = urlsplit(target)
    query = {name: values[-1] for name, values in parse_qs(url.query).items()}
    return Request(method, url.path, query, headers, body)


class Time:
    """A clock that only :meth:`sleep` and the test move."""

    def __init__(self, start: datetime) -> None:
        self.start = start
        self.seconds = 0.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds


@asynccontextmanager
async def connected(name: str, platform: Platform, time: Time, manners: Manners = QUICK) -> AsyncIterator[MarketHttp]:
    """The client's side of a platform that runs."""
    # no certificates to load: it is plain HTTP
    async with platform.running(), httpx.AsyncClient(trust_env=False, verify=False) as client:
        yield MarketHttp(name, platform.url, client, manners, time.monotonic, time.sleep)


# ── Elexon ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def system_price(period: SettlementPeriod, price: float | None, niv_mwh: float | None, **more: Any) -> dict[str, Any]:
    """A row as Elexon sends it, published a quarter of an hour after its period."""
    return {
        "settlementDate": f"{period.day}",
        "settlementPeriod": period.number,
        "startTime": f"{period.start:%Y-%m-%dT%H:%M:%SZ}",
        "createdDateTime": f"{period.end + timedelta(minutes=15):%Y-%m-%dT%H:%M:%SZ}",
        "systemSellPrice": price,
        "systemBuyPrice": price,
        "bsadDefaulted": False,
        "priceDerivationCode": "N",
        "reserveScarcityPrice": 0.0,
        "netImbalanceVolume": niv_mwh,
        "sellPriceAdjustment": 0.0,
        "totalAcceptedOfferVolume": 12.5,
        **more,
    }


def periods(day: date) -> list[SettlementPeriod]:
    return [SettlementPeriod(day, number + 1) for number in range(periods_in_day(day))]


def elexon(request: Request) -> Reply:
    """Every period of the day asked for: price 100 + its number, NIV its number − 24 MWh; index price 80 + number."""
    if request.path.startswith("/balancing/settlement/system-prices/"):
        day = date.fromisoformat(request.path.rsplit("/", 1)[1])
        return Reply({"data": [system_price(p, 100.0 + p.number, p.number - 24.0) for p in periods(day)]})
    if request.path == "/balancing/pricing/market-index":
        first, last = (datetime.fromisoformat(request.query[name]) for name in ("from", "to"))
        assert last - first <= timedelta(days=7)
        days = [first.date() + timedelta(days=n) for n in range((last - first).days + 2)]
        rows = [index_price(p) for day in days for p in periods(day) if first <= p.start <= last]
        return Reply({"data": rows[::-1]})
    return Reply({"title": "Not Found"}, status=404)


def index_price(period: SettlementPeriod, provider: str = "APXMIDP") -> dict[str, Any]:
    return {
        "startTime": f"{period.start:%Y-%m-%dT%H:%M:%SZ}",
        "dataProvider": provider,
        "settlementDate": f"{period.day}",
        "settlementPeriod": period.number,
        "price": 80.0 + period.number,
        "volume": 900.0,
    }
