"""The platform link over HTTPS: for an edge that has nothing of the platform but a URL and a key.

The other side is `flux.api.edge`; `docs/api-edge.md` describes what goes over the wire. The key goes with each request
in a header, and into no log and no error.
"""

import asyncio
import gzip
import ssl
from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import structlog
from pydantic import ValidationError

from flux.control.feed import ControlFeed
from flux.edge.link import JobAnswer, KeyRefusedError, LeaseAnswer, PushResult, RegistrySnapshot
from flux.model import DeviceId, DeviceState, FluxError, InputError, Job, NotFoundError, RefusedError, UnavailableError
from flux.registry.for_edges import Refusal
from flux.store.batches import COMPACT, encode_batch
from flux.store.encoding import Recorded

_logger = structlog.get_logger(__name__)

_CONNECT_S = 10.0
_ANSWER_S = 30.0
_LONGEST_WAIT_S = 45.0
"""Of one long-poll; many proxies end a silent request after 60 s."""
_SOONEST_S = 1.0
"""An answer of "nothing new" that comes sooner than asked for is not asked for again before this."""
_LARGE = 500
_COMPRESSION = 6
_NOTHING_NEW = 204
_TOO_LARGE = 413
_ERRORS: Mapping[str, type[FluxError]] = {
    "not_found": NotFoundError,
    "refused": RefusedError,
    "conflict": RefusedError,
    "input": InputError,
}

Body = dict[str, Any]


class _KeyAuth(httpx.Auth):
    """Sends the key as clients of the API do; asked for anew after it was refused, so that it can be replaced."""

    def __init__(self, key: Callable[[], str]) -> None:
        self._ask = key
        self._key: str | None = None

    def forget(self) -> None:
        self._key = None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._key is None:
            self._key = self._ask()
        request.headers["Authorization"] = f"Bearer {self._key}"
        request.headers["apikey"] = self._key
        yield request


class HttpsLink:
    """PlatformLink over httpx: connections are kept and made again as needed.

    ``key`` is asked for the key when it is first needed and after each time that it was refused. ``ca_file``: PEM of
    the authorities to trust in place of the system's; InputError when it can't be read.
    """

    def __init__(
        self,
        site: str,
        url: str,
        key: Callable[[], str],
        *,
        ca_file: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        answer_s: float = _ANSWER_S,
    ) -> None:
        self._where = f"platform {urlsplit(url).netloc}"
        self._auth = _KeyAuth(key)
        self._answer_s = answer_s
        self._largest = 50_000
        self._snapshot: tuple[str, RegistrySnapshot] | None = None
        self._feed_cursors: tuple[str, str] | None = None
        self._url = f"{url.rstrip('/')}/edge/v1"
        self._site = site
        self._verify = _trusted(ca_file) if url.startswith("https://") else False
        self._transport = transport
        self._client: httpx.AsyncClient | None = None

    async def push(self, records: Sequence[Recorded]) -> PushResult:
        """As the interface says. What the platform finds too large is sent in halves, and so from then on."""
        total = PushResult()
        start = 0
        while True:
            part = records[start : start + self._largest]
            result = await self._push(part)
            if result is None:
                self._largest = max(1, len(part) // 2)
                _logger.info("platform takes smaller batches", largest=self._largest)
                continue
            total = _sum(total, result, start)
            start += len(part)
            if start >= len(records):
                return total

    async def _push(self, records: Sequence[Recorded]) -> PushResult | None:
        """None: it is too large."""
        if len(records) > _LARGE:
            content = await asyncio.to_thread(_packed, records)
        else:
            content = _packed(records)
        headers = {"Content-Type": COMPACT, "Content-Encoding": "gzip"}
        response = await self._send("POST", "/push", content=content, headers=headers)
        if response.status_code == _TOO_LARGE and len(records) > 1:
            return None
        try:
            body = self._body(response, InputError)
        except InputError as error:  # it stays in the outbox until a platform can read it
            raise UnavailableError(f"{self._where} can't read what this edge sends: {error}") from None
        with self._readable("what it says of a batch"):
            refusals = tuple(Refusal(**one) for one in body["refusals"])
            return PushResult(int(body["stored"]), int(body["duplicates"]), int(body["rejected"]), refusals)

    async def registry(self) -> RegistrySnapshot:
        await self._follow_registry(0)
        assert self._snapshot is not None  # noqa: S101 - followed, or raised
        return self._snapshot[1]

    async def wait_for_registry_change(self, timeout_s: float) -> bool:
        if self._snapshot is None:
            return True
        return await self._follow_registry(timeout_s)

    async def _follow_registry(self, timeout_s: float) -> bool:
        known = None if self._snapshot is None else self._snapshot[0]
        body = await self._follow("/registry", known, timeout_s)
        if body is None:
            return False
        with self._readable("the registry"):
            self._snapshot = (str(body["cursor"]), RegistrySnapshot.from_json(body))
        return True

    async def control_feed(self, after: str | None, timeout_s: float) -> ControlFeed | None:
        """As the interface says; a platform of another version may name the same feed by another cursor."""
        known = after
        if self._feed_cursors is not None and self._feed_cursors[0] == after:
            known = self._feed_cursors[1]
        body = await self._follow("/control", known, timeout_s)
        if body is None:
            return None
        with self._readable("what it tells the controller"):
            feed = ControlFeed.from_json(body["feed"])
            self._feed_cursors = (feed.cursor, str(body["cursor"]))
        return None if feed.cursor == after else feed

    async def _follow(self, path: str, after: str | None, timeout_s: float) -> Body | None:
        """What is newer than ``after``, as soon as there is something; None after ``timeout_s`` without."""
        parameters = {} if after is None else {"after": after}

        async def ask(wait_s: float) -> httpx.Response:
            return await self._send("GET", path, params={**parameters, "wait": f"{wait_s:g}"}, wait_s=wait_s)

        return await self._poll(ask, timeout_s)

    async def _poll(self, ask: Callable[[float], Any], timeout_s: float) -> Body | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            wait_s = max(0.0, min(_LONGEST_WAIT_S, deadline - loop.time()))
            began = loop.time()
            response: httpx.Response = await ask(wait_s)
            if response.status_code != _NOTHING_NEW:
                return self._body(response)
            if loop.time() >= deadline:
                return None
            if loop.time() - began < min(_SOONEST_S, wait_s):
                await asyncio.sleep(min(_SOONEST_S, deadline - loop.time()))

    async def platform_time(self) -> datetime:
        body = self._body(await self._send("GET", "/time"))
        with self._readable("its time"):
            return datetime.fromisoformat(body["time"])

    async def report_state(self, device_id: DeviceId, state: DeviceState, reason: str) -> None:
        said = {"state": state.value, "reason": reason[:2000]}
        answer = await self._send("POST", f"/devices/{device_id}/state", json=said)
        self._check(answer, NotFoundError, RefusedError)

    async def acknowledge_stop(self) -> None:
        self._check(await self._send("POST", "/stop/acknowledged"))

    async def take_lease(self, holder: str, host: str, lasts: timedelta) -> LeaseAnswer:
        asked = {"holder": holder, "host": host, "lasts_s": lasts.total_seconds()}
        body = self._body(await self._send("POST", "/lease", json=asked), NotFoundError)
        with self._readable("the control lease"):
            return LeaseAnswer(body["granted"] is True, str(body["holder"]), str(body["host"]), int(body["token"]))

    async def release_lease(self, holder: str) -> None:
        self._check(await self._send("DELETE", "/lease", params={"holder": holder}))

    async def take_job(self, holder: str, run: str, have: Sequence[UUID], timeout_s: float) -> Job | None:
        asked = {"holder": holder, "run": run, "have": [str(one) for one in have]}

        async def ask(wait_s: float) -> httpx.Response:
            return await self._send("POST", "/jobs/take", json={**asked, "wait": wait_s}, wait_s=wait_s)

        body = await self._poll(ask, timeout_s)
        if body is None:
            return None
        with self._readable("a job"):
            return Job.model_validate(body)

    async def finish_job(self, job_id: UUID, holder: str, run: str, answer: JobAnswer) -> bool:
        said = {"holder": holder, "run": run, "result": answer.result, "error": answer.error}
        body = self._body(await self._send("POST", f"/jobs/{job_id}/finish", json=said), InputError)
        return body.get("kept") is True

    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(
                base_url=self._url,
                auth=self._auth,
                headers={"Flux-Site": self._site},
                verify=self._verify,
                limits=httpx.Limits(max_connections=16, max_keepalive_connections=8, keepalive_expiry=90),
                transport=self._transport,
            )
        return self._client

    async def _send(self, method: str, path: str, *, wait_s: float = 0.0, **what: Any) -> httpx.Response:
        """One request; UnavailableError in one line when nobody answers it whole and in time."""
        limit_s = self._answer_s + wait_s
        timeout = httpx.Timeout(limit_s, connect=_CONNECT_S)
        try:
            async with asyncio.timeout(limit_s + _CONNECT_S):  # httpx's own are between two bytes
                return await self._opened().request(method, path, timeout=timeout, **what)
        except httpx.PoolTimeout as error:
            await self.close()  # whatever holds its connections: new ones are made
            raise UnavailableError(f"{self._where}: no connection is free ({_one_line(error)})") from None
        except (httpx.TimeoutException, TimeoutError):
            raise UnavailableError(f"{self._where}: no answer within {limit_s:g} s") from None
        except InputError as error:  # the key, asked for anew, is gone or not safe
            raise KeyRefusedError(f"{self._where}: {error}") from None
        except httpx.ConnectError as error:
            raise UnavailableError(f"{self._where}: {_why_not_connected(error)}") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            raise UnavailableError(f"{self._where}: {_one_line(error)}") from None

    def _body(self, response: httpx.Response, *expected: type[FluxError]) -> Body:
        """The object that was answered; what is none is a proxy's page, or another program's."""
        self._check(response, *expected)
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            kind = response.headers.get("content-type", "no type")
            raise UnavailableError(
                f"{self._where} answers with something else than Flux does ({kind}): a proxy or a login page between?"
            )
        return body

    def _check(self, response: httpx.Response, *expected: type[FluxError]) -> None:
        """Raise what an answer that is no success means: one of ``expected``, else UnavailableError.

        A proxy that answers for a platform that is away must end nothing that only waits for it.
        """
        if response.is_success:
            return
        status, (word, message) = response.status_code, _problem(response)
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            self._auth.forget()
            why = message or "it says no more"
            raise KeyRefusedError(f"{self._where} does not let this edge in ({status}: {why}); check its key")
        meant = _ERRORS.get(word or "")
        if meant is not None and meant in expected:
            raise meant(message)
        if meant is not None:
            raise UnavailableError(f"{self._where} refuses what this edge asks: {message} ({status})")
        raise UnavailableError(f"{self._where}: {_meaning(response, word, message)}")

    def _readable(self, what: str) -> "_Readable":
        return _Readable(f"{self._where}: {what} can't be read by this version")


class _Readable:
    """What a platform of another version may say raises UnavailableError, in one line."""

    def __init__(self, words: str) -> None:
        self._words = words

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, KeyError | TypeError | ValueError | AttributeError | IndexError | InputError):
            detail = f"{error.error_count()} problems" if isinstance(error, ValidationError) else _one_line(error)
            raise UnavailableError(f"{self._words} ({detail})") from None


def _packed(records: Sequence[Recorded]) -> bytes:
    return gzip.compress(encode_batch(records), _COMPRESSION, mtime=0)


def _sum(total: PushResult, more: PushResult, start: int) -> PushResult:
    refusals = (Refusal(start + one.index, one.reason, one.detail) for one in more.refusals)
    return PushResult(
        total.stored + more.stored,
        total.duplicates + more.duplicates,
        total.rejected + more.rejected,
        (*total.refusals, *refusals),
    )


def _problem(response: httpx.Response) -> tuple[str | None, str]:
    """The word and the message of an error; (None, "") for an answer that Flux did not write."""
    try:
        body = response.json()
    except ValueError:
        return None, ""
    if not isinstance(body, Mapping):
        return None, ""
    word, message = body.get("error"), body.get("message")
    return (word if isinstance(word, str) else None), (" ".join(message.split()) if isinstance(message, str) else "")


def _meaning(response: httpx.Response, word: str | None, message: str) -> str:
    status = response.status_code
    if response.is_redirect:
        return f"it sends on to {response.headers.get('location', 'elsewhere')}; write that into platform.url"
    if status == _TOO_LARGE:
        return "a single record is too large for it (413)"
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return f"it asks to come back later (429{', ' + message if message else ''})"
    if word is None and status < 500 and message:
        return f"it refuses: {message} ({status})"
    if word is None and status < 500:
        return f"it does not know this edge's requests ({status}): an older version, or not a Flux platform?"
    return message or f"it failed ({status})"


def _why_not_connected(error: httpx.ConnectError) -> str:
    text = _one_line(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0] or "it can't be verified"
        return f"its certificate is not trusted ({reason}); name its authority with platform.ca_file"
    return text


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _trusted(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"{ca_file}: not a file of certificates in PEM ({_one_line(error)})") from None
