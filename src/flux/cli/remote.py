"""Operations on a remote platform, over HTTP."""

import contextlib
from collections.abc import Iterator, Mapping
from datetime import date
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

import flux
from flux.api.typed.operation import Operation
from flux.api.typed.readings import LONGEST_DAYS, MOST_ROWS
from flux.cli.platform import Remote
from flux.errors import ConflictError, FluxError, InputError, NotFoundError, RefusedError, UnavailableError

if TYPE_CHECKING:
    from flux.cli.transfer_ports import Transfers

P = ParamSpec("P")
R = TypeVar("R")
_TIMEOUT = httpx.Timeout(60, connect=10)
_KINDS: Mapping[str, type[FluxError]] = {
    "input": InputError,
    "not_found": NotFoundError,
    "conflict": ConflictError,
    "refused": RefusedError,
    "forbidden": RefusedError,
    "unavailable": UnavailableError,
}
_STATUS: Mapping[int, type[FluxError]] = {
    400: InputError,
    403: RefusedError,
    404: NotFoundError,
    409: ConflictError,
    413: InputError,
    422: InputError,
    429: UnavailableError,
}


@contextlib.contextmanager
def opened_remote(remote: Remote, transport: httpx.BaseTransport | None = None) -> Iterator["RemotePlatform"]:
    """The platform at an address, for as long as the block. RefusedError without a key."""
    if not remote.key:
        raise RefusedError(f"{remote.url} needs a key: FLUX_KEY, or --key-file FILE")
    if not remote.key.isascii() or not remote.key.isprintable() or " " in remote.key:
        raise InputError("the key (FLUX_KEY, --key-file) is none: it has blanks, or letters that no key has")
    headers = {
        "Authorization": f"Bearer {remote.key}",
        "apikey": remote.key,
        "User-Agent": f"flux/{flux.__version__}",
    }
    with httpx.Client(base_url=remote.url, headers=headers, timeout=_TIMEOUT, transport=transport) as client:
        yield RemotePlatform(client, remote.url)


class RemotePlatform:
    """Sends operations to their addresses, and reads what they answer back to what they return."""

    page_rows = MOST_ROWS
    page_days = LONGEST_DAYS

    def __init__(self, client: httpx.Client, url: str) -> None:
        self._client = client
        self._url = url

    @property
    def transfers(self) -> "Transfers":
        from flux.cli.transfer_ports import RemoteTransfers

        return RemoteTransfers(self._client, self._url)

    def call(self, operation: Operation[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        if args:
            raise TypeError(f"{operation.name}: its arguments go by name")
        request = request_of(self._client, operation, kwargs)
        with reached(self._url):
            answer = self._client.send(request)
        check(answer, self._url)
        returns = operation.returns
        if returns is type(None):
            return None  # type: ignore[return-value]  # it is what R is
        try:
            read: R = TypeAdapter(returns).validate_json(answer.content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise UnavailableError(
                f"{self._url} answers otherwise than expected ({where}: {first['msg']}); is it another version?"
            ) from None
        return read


def request_of(client: httpx.Client, operation: Operation[Any, Any], arguments: Mapping[str, Any]) -> httpx.Request:
    """What stands in the path goes there, ``body`` is the JSON, the rest is the query; None is left out."""
    path, query, content = operation.path, {}, None
    for name, value in arguments.items():
        if f"{{{name}}}" in path:
            path = path.replace(f"{{{name}}}", quote(_text(value), safe=""))
        elif name == "body":
            assert isinstance(value, BaseModel)  # noqa: S101 - every operation's body is a model
            content = value.model_dump_json(exclude_unset=True)
        elif value is not None:
            query[name] = [_text(one) for one in value] if isinstance(value, list) else _text(value)
    headers = {"Content-Type": "application/json"} if content is not None else None
    return client.build_request(operation.method, path, params=query, content=content, headers=headers)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, date) else str(value)


@contextlib.contextmanager
def reached(url: str) -> Iterator[None]:
    """What goes wrong on the way is one line."""
    try:
        yield
    except httpx.TimeoutException:
        raise UnavailableError(f"{url} did not answer in time") from None
    except httpx.HTTPError as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnavailableError(f"{url} does not answer: {reason}; check --url (FLUX_URL)") from None


def check(answer: httpx.Response, url: str) -> None:
    """Raise what the platform says is wrong, as it would be raised on its own host."""
    if answer.is_success:
        return
    message, kind = _told(answer)
    if answer.status_code == 401:
        raise RefusedError(f"{url} does not take this key: {message}; see FLUX_KEY and --key-file")
    if message is None:
        raise UnavailableError(f"{url} answers {answer.status_code}, and not as Flux does; check --url (FLUX_URL)")
    raise _KINDS.get(kind, _STATUS.get(answer.status_code, UnavailableError))(message)


def _told(answer: httpx.Response) -> tuple[str | None, str]:
    try:
        told = answer.json()
    except ValueError:
        return None, ""
    if not isinstance(told, dict) or not isinstance(told.get("message"), str):
        return None, ""
    return told["message"], str(told.get("error", ""))
