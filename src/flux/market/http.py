"""HTTP to a market platform: paced, retried with jitter, cut off while it is down, answers kept for a while.

A call waits for its turn (:class:`Pace`), is tried some times, and after several calls that failed the platform is left
alone for a while (:class:`Breaker`). ``Retry-After`` holds up every call to that platform, not just the one that was
told. Clock and sleep are passed in.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import stamina
import structlog

from flux.errors import NotFoundError, RefusedError, UnavailableError
from flux.market.source import UnexpectedReplyError

_logger = structlog.get_logger(__name__)
_MOST_CACHED = 512
Sleep = Callable[[float], Awaitable[None]]
Monotonic = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Manners:
    """How a platform is treated. Times in seconds."""

    calls: int = 10
    per_s: float = 10.0
    """At most ``calls`` in any ``per_s``."""
    attempts: int = 4
    wait_initial_s: float = 0.5
    wait_max_s: float = 20.0
    wait_jitter_s: float = 1.0
    timeout_s: float = 20.0
    """For the whole of one attempt, the body included."""
    longest_retry_after_s: float = 120.0
    """A platform that asks for a longer pause is not waited for: the call fails, and those within the pause do too."""
    failures: int = 3
    rest_s: float = 60.0
    """After ``failures`` failed calls in a row no call is made for ``rest_s``; then one, which decides."""


class Pace:
    """Spaces calls out: at most so many in any window, and none before a pause has ended."""

    def __init__(self, manners: Manners, monotonic: Monotonic, sleep: Sleep) -> None:
        self._manners = manners
        self._monotonic = monotonic
        self._sleep = sleep
        self._made: deque[float] = deque(maxlen=manners.calls)
        self._paused_until = 0.0
        self._turn = asyncio.Lock()

    def pause(self, seconds: float) -> None:
        """No call before ``seconds`` have passed."""
        self._paused_until = max(self._paused_until, self._monotonic() + seconds)

    async def wait(self) -> None:
        """Until a call may be made. Raises UnavailableError where that is too far away."""
        async with self._turn:
            now = self._monotonic()
            pause_s = self._paused_until - now
            if pause_s > self._manners.longest_retry_after_s:
                raise UnavailableError(f"asks to be left alone for another {pause_s:.0f} s")
            full = len(self._made) == self._manners.calls
            window_s = self._made[0] + self._manners.per_s - now if full else 0.0
            if (wait_s := max(pause_s, window_s)) > 0:
                await self._sleep(wait_s)
            self._made.append(self._monotonic())


class Breaker:
    """Opens after several failures in a row, and lets one call through after a rest."""

    def __init__(self, manners: Manners, monotonic: Monotonic) -> None:
        self._manners = manners
        self._monotonic = monotonic
        self._failures = 0
        self._open_until = 0.0

    def check(self) -> None:
        """Raise UnavailableError while open."""
        left_s = self._open_until - self._monotonic()
        if left_s > 0:
            raise UnavailableError(f"failed {self._failures} times in a row, is tried again in {left_s:.0f} s")

    def succeeded(self) -> None:
        self._failures, self._open_until = 0, 0.0

    def failed(self) -> None:
        self._failures += 1
        if self._failures >= self._manners.failures:
            self._open_until = self._monotonic() + self._manners.rest_s


class _RetryableError(Exception):
    """An attempt that another one may mend; ``str()`` of it says what was wrong."""


@dataclass(slots=True)
class MarketHttp:
    """One platform. ``client`` is the caller's, who closes it; paths are appended to ``base_url``."""

    name: str
    base_url: str
    client: httpx.AsyncClient
    manners: Manners = Manners()
    monotonic: Monotonic = time.monotonic
    sleep: Sleep = asyncio.sleep
    pace: Pace = field(init=False)
    breaker: Breaker = field(init=False)
    _cache: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[float, Any]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.base_url = self.base_url.rstrip("/")
        self.pace = Pace(self.manners, self.monotonic, self.sleep)
        self.breaker = Breaker(self.manners, self.monotonic)

    async def get(
        self,
        path: str,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        keep_s: float = 0.0,
    ) -> Any:
        """The JSON at ``path``; for ``keep_s`` after that the same call is answered from memory."""
        key = (path, tuple(sorted((params or {}).items())))
        kept = self._cache.get(key)
        if kept is not None and kept[0] > self.monotonic():
            return kept[1]
        # empty parameters would take those away that the path has
        reply = await self._call("GET", path, params=dict(params) if params else None, headers=dict(headers or {}))
        if keep_s > 0:
            self._cache[key] = (self.monotonic() + keep_s, reply)
            while len(self._cache) > _MOST_CACHED:
                del self._cache[next(iter(self._cache))]
        return reply

    async def post(self, path: str, **content: Any) -> Any:
        """POST ``json=`` or ``data=`` (a form), with ``headers=``; returns the JSON of the reply."""
        return await self._call("POST", path, **content)

    async def _call(self, method: str, path: str, **content: Any) -> Any:
        try:
            self.breaker.check()
            reply = await self._persist(method, path, content)
        except (RefusedError, NotFoundError):
            raise  # it answers; trying again later would not help
        except _RetryableError as error:
            self.breaker.failed()
            raise UnavailableError(f"{self.name}: {error}") from None
        except UnavailableError as error:
            raise type(error)(f"{self.name}: {error}") from None
        self.breaker.succeeded()
        return reply

    async def _persist(self, method: str, path: str, content: dict[str, Any]) -> Any:
        manners = self.manners
        async for attempt in stamina.retry_context(
            on=_RetryableError,
            attempts=manners.attempts,
            timeout=None,
            wait_initial=manners.wait_initial_s,
            wait_max=manners.wait_max_s,
            wait_jitter=manners.wait_jitter_s,
        ):
            with attempt:
                await self.pace.wait()
                return await self._attempt(method, path, content)
        raise AssertionError("unreachable")

    async def _attempt(self, method: str, path: str, content: dict[str, Any]) -> Any:
        url = path if path.startswith(self.base_url + "/") else f"{self.base_url}/{path.lstrip('/')}"
        try:
            async with asyncio.timeout(self.manners.timeout_s):
                response = await self.client.request(method, url, **content)
        except TimeoutError:
            raise _RetryableError(f"no whole answer within {self.manners.timeout_s:g} s") from None
        except httpx.RequestError as error:
            raise _RetryableError(f"{error or type(error).__name__}") from None
        self._check_status(response, path)
        try:
            return response.json()
        except json.JSONDecodeError:
            raise _RetryableError(f"{path} did not answer with whole JSON") from None

    def _check_status(self, response: httpx.Response, path: str) -> None:
        status = response.status_code
        if response.is_success:
            return
        if status == httpx.codes.TOO_MANY_REQUESTS or status >= 500:
            if (wait_s := retry_after_s(response.headers.get("Retry-After"))) is not None:
                self.pace.pause(wait_s)
            raise _RetryableError(f"{path} answers {status} {response.reason_phrase}")
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise RefusedError(f"{self.name} does not accept our credentials ({status}): check them")
        if status == httpx.codes.NOT_FOUND:
            raise NotFoundError(f"{self.name} has no {path}")
        raise UnexpectedReplyError(f"{path} answers {status} {response.reason_phrase}: {response.text[:200]}")


def retry_after_s(header: str | None, now: datetime | None = None) -> float | None:
    """What ``Retry-After`` asks for, in seconds (its date counts from ``now``, the real one by default)."""
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())
