"""Axle: login, schedule and telemetry, from a server on loopback."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import pytest
from tests.market.platforms import QUICK, Platform, Reply, Request, Time, connected
from tests.support import NOON

from flux.errors import RefusedError, UnavailableError
from flux.market import UnexpectedReplyError
from flux.market.axle import Axle, DispatchStep, Telemetry

STEP = {
    "start_timestamp": "2026-01-15T12:00:00Z", "end_timestamp": "2026-01-15T12:30:00Z", "action": "charge_max",
    "allow_deviation": False,
}  # fmt: skip


class Site:
    """A platform with one user; tokens are counted, and hold as long as it says."""

    def __init__(self) -> None:
        self.platform = Platform(self)
        self.tokens: list[str] = []
        self.expires_in: float | None = None
        self.schedule: Any = {"schedule_steps": [STEP]}
        self.received: list[dict[str, Any]] = []

    def __call__(self, request: Request) -> Reply:
        if (request.method, request.path) == ("POST", "/auth/token-form"):
            return self._login(request)
        if not self.tokens or request.headers.get("authorization") != f"Bearer {self.tokens[-1]}":
            return Reply({"detail": "Could not validate credentials"}, status=401)
        if (request.method, request.path) == ("GET", "/entities/asset/asset-1/battery-schedule"):
            return Reply(self.schedule)
        assert (request.method, request.path) == ("POST", "/data/readings")
        self.received += json.loads(request.body)["readings"]
        return Reply({"accepted": len(self.received)})

    def _login(self, request: Request) -> Reply:
        assert request.headers["content-type"] == "application/x-www-form-urlencoded"
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        if form != {"username": "site@example.org", "password": "p&ss=word"}:
            return Reply({"detail": "Incorrect username or password"}, status=401)
        self.tokens.append(f"token-{len(self.tokens)}")
        lasts = {} if self.expires_in is None else {"expires_in": self.expires_in}
        return Reply({"access_token": self.tokens[-1], "token_type": "bearer", **lasts})


def client(http: Any, time: Time, password: str = "p&ss=word") -> Axle:
    return Axle(http, "asset-1", "site@example.org", password, time.now)


async def test_the_schedule() -> None:
    site, time = Site(), Time(NOON)
    site.schedule["schedule_steps"].append(STEP | {"action": "do_something_new"})
    async with connected("axle", site.platform, time) as http:
        steps = await client(http, time).schedule()
    end = NOON + timedelta(minutes=30)
    assert steps == [DispatchStep(NOON, end, "charge_max"), DispatchStep(NOON, end, "do_something_new")]


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ({}, "schedule_steps: Field required"),
        ({"schedule_steps": None}, "schedule_steps"),
        ({"schedule_steps": []}, "without steps"),
        ([], "the reply"),
        ({"schedule_steps": [STEP | {"end_timestamp": STEP["start_timestamp"]}]}, "a step from"),
        ({"schedule_steps": [STEP | {"start_timestamp": "2026-01-15T12:00:00"}]}, "start_timestamp: .*timezone"),
        ({"schedule_steps": [STEP | {"action": None}]}, "schedule_steps.0.action"),
    ],
)
async def test_a_reply_without_good_steps_is_an_error(schedule: Any, told: str) -> None:
    site, time = Site(), Time(NOON)
    site.schedule = schedule
    async with connected("axle", site.platform, time) as http:
        with pytest.raises(UnexpectedReplyError, match=told):
            await client(http, time).schedule()


async def test_the_token_is_renewed_before_it_ends() -> None:
    site, time = Site(), Time(NOON)
    site.expires_in = 1800
    async with connected("axle", site.platform, time) as http:
        axle = client(http, time)
        for minute, logins in ((0, 1), (24, 1), (25, 2), (49, 2), (50, 3)):
            time.seconds = 60 * minute
            await axle.schedule()
            assert len(site.tokens) == logins, minute


async def test_a_token_that_is_refused_early_is_replaced_once() -> None:
    site, time = Site(), Time(NOON)
    async with connected("axle", site.platform, time) as http:
        axle = client(http, time)
        await axle.schedule()
        site.tokens.append("somebody else's")
        await axle.schedule()
        assert site.platform.paths.count("/auth/token-form") == 2


async def test_a_wrong_password_is_told_and_not_shown() -> None:
    site, time = Site(), Time(NOON)
    async with connected("axle", site.platform, time) as http:
        with pytest.raises(RefusedError, match="axle does not accept our credentials") as caught:
            await client(http, time, "hunter2").schedule()
    assert "hunter2" not in str(caught.value)


async def test_a_token_in_an_odd_reply_is_not_shown() -> None:
    platform, time = Platform(lambda _: Reply({"token": "s3cret"})), Time(NOON)
    async with connected("axle", platform, time) as http:
        with pytest.raises(UnexpectedReplyError, match="access_token: Field required") as caught:
            await client(http, time).schedule()
    assert "s3cret" not in str(caught.value)


async def test_telemetry() -> None:
    site, time = Site(), Time(NOON)
    async with connected("axle", site.platform, time) as http:
        axle = client(http, time)
        await axle.upload([])
        assert site.platform.requests == []
        site.platform.trouble = [Reply(status=500), Reply(b"{", cut=1)]
        await axle.upload(
            [Telemetry("boundary_import_kw", NOON, 12.5), Telemetry("battery_inverter_import_kw", NOON, -3)]
        )
    assert site.received == [
        {
            "asset_id": "asset-1", "label": label, "value": value,
            "start_timestamp": "2026-01-15T12:00:00+00:00", "end_timestamp": "2026-01-15T12:00:00+00:00",
        }
        for label, value in (("boundary_import_kw", 12.5), ("battery_inverter_import_kw", -3))
    ]  # fmt: skip


async def test_while_it_is_down() -> None:
    site, time = Site(), Time(datetime(2026, 1, 15, tzinfo=UTC))
    async with connected("axle", site.platform, time) as http:
        axle = client(http, time)
        await axle.schedule()
        site.platform.trouble = [Reply(status=502)] * QUICK.attempts
        with pytest.raises(UnavailableError, match=r"axle: .* 502"):
            await axle.schedule()
