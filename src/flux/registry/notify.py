"""Notifications of alerts through apprise: mail, Slack, Telegram, webhooks and some hundred others.

Their URLs are secrets: they stand in a file of mode 0600 or in environment variables that it names, and are never
written to a log, an error or the database.
"""

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import structlog
from psycopg import AsyncConnection
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from flux.config import load_yaml
from flux.config.private import require_private
from flux.errors import InputError, UnavailableError
from flux.registry.alerts import Alert, Severity, mark_told, untold

_logger = structlog.get_logger(__name__)

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.*")
_LONGEST_SEND_S = 30.0


class Route(BaseModel):
    """Who is told what. Just one of ``url`` and ``url_env`` is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    url: SecretStr | None = Field(default=None, description="an apprise URL")
    url_env: str | None = Field(default=None, description="the environment variable that holds it")
    severity: Severity = Field(default=Severity.WARNING, description="told from this on")
    sites: tuple[str, ...] | None = Field(default=None, description="only these; left out: all, and the platform")

    @model_validator(mode="after")
    def _one_url(self) -> Self:
        if (self.url is None) == (self.url_env is None):
            raise ValueError("give one of url and url_env")
        if self.url_env is not None and not _VARIABLE.fullmatch(self.url_env):  # a URL, by mistake: it is not repeated
            raise ValueError("url_env is the name of an environment variable, like OPERATORS_URL")
        return self

    def takes(self, alert: Alert) -> bool:
        """Whether this route is told of ``alert``."""
        return Severity(alert.severity).rank >= self.severity.rank and (self.sites is None or alert.site in self.sites)

    def secret(self, environment: Mapping[str, str]) -> str:
        """Its URL. InputError, which names the variable, when that is not set."""
        if self.url is not None:
            return self.url.get_secret_value()
        assert self.url_env is not None  # noqa: S101 - the validator has looked
        if not environment.get(self.url_env):
            raise InputError(f"route {self.name}: environment variable {self.url_env} is not set")
        return environment[self.url_env]


class NotificationConfig(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    routes: tuple[Route, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Message:
    title: str
    body: str
    severity: Severity


Send = Callable[[Route, Message], Awaitable[None]]
"""Raises UnavailableError when it did not get through."""


def load_notifications(file: Path) -> NotificationConfig | None:
    """The routes; None where there is no such file. InputError for a file that others may read, or that is wrong."""
    try:
        require_private(file)
    except FileNotFoundError:
        return None
    try:
        config = load_yaml(file).parse(NotificationConfig)
    except InputError as error:  # it repeats what it found, which may be a URL in the wrong place
        raise InputError("\n".join(_URL.sub("(a URL)", line) for line in str(error).splitlines())) from None
    names = [route.name for route in config.routes]
    if len(set(names)) < len(names):
        raise InputError(f"{file}: two routes have one name")
    return config


class AppriseSender:
    """Sends by apprise. Its own log is silenced: it may name URLs."""

    def __init__(self, environment: Mapping[str, str] | None = None, longest_s: float = _LONGEST_SEND_S) -> None:
        self._environment = os.environ if environment is None else environment
        self._longest_s = longest_s
        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)

    async def __call__(self, route: Route, message: Message) -> None:
        import apprise  # half a second, needed by those who have routes

        url = route.secret(self._environment)
        kinds = {Severity.INFO: apprise.NotifyType.INFO, Severity.WARNING: apprise.NotifyType.WARNING}
        kind = kinds.get(message.severity, apprise.NotifyType.FAILURE)
        target = apprise.Apprise()
        try:
            known = target.add(url)
            async with asyncio.timeout(self._longest_s):
                sent = known and await target.async_notify(title=message.title, body=message.body, notify_type=kind)
        except TimeoutError:
            raise UnavailableError(f"route {route.name}: no answer within {self._longest_s:g} s") from None
        except Exception as error:  # noqa: BLE001 - of one of a hundred plug-ins; its text may have the URL in it
            raise UnavailableError(f"route {route.name}: it failed with {type(error).__name__}") from None
        if not known:
            raise InputError(f"route {route.name}: its URL is none that apprise knows")
        if not sent:
            raise UnavailableError(f"route {route.name}: the notification did not get through")


async def tell(conn: AsyncConnection[Any], routes: Sequence[Route], send: Send, now: datetime) -> int:
    """Send what nobody was told yet; how many alerts were. One that no route takes is not sent and not kept waiting.

    An alert that got through on any of its routes counts as told; when it did on none it is tried again next time, and
    UnavailableError or InputError says why at the end, after the other alerts.
    """
    raised, over = await untold(conn, now)
    sent, failure = 0, None
    for alert in (*raised, *over):
        outcomes = [await _try(route, _message(alert), send) for route in routes if route.takes(alert)]
        failures = [outcome for outcome in outcomes if outcome is not None]
        if outcomes and len(failures) == len(outcomes):
            failure = failures[0]
            continue
        await mark_told(conn, alert, now)
        sent += bool(outcomes)
    if failure is not None:
        raise failure
    return sent


async def _try(route: Route, message: Message, send: Send) -> UnavailableError | InputError | None:
    try:
        await send(route, message)
    except (UnavailableError, InputError) as error:
        _logger.warning("notification failed", route=route.name, error=str(error))
        return error
    return None


def _message(alert: Alert) -> Message:
    where = f"{alert.site}: " if alert.site else ""
    if alert.cleared_at is not None:
        return Message(
            f"Flux, over: {where}{alert.text}",
            f"It was over at {alert.cleared_at:%Y-%m-%d %H:%M:%S %Z}.",
            Severity.INFO,
        )
    again = f" It came {alert.times} times." if alert.times > 1 else ""
    return Message(
        f"Flux, {alert.severity}: {where}{alert.text}",
        f"Since {alert.raised_at:%Y-%m-%d %H:%M:%S %Z}.{again}",
        Severity(alert.severity),
    )
