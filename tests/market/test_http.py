"""What every client does alike when a platform is slow, busy, broken or away."""

import httpx
import pytest
from tests.market.platforms import QUICK, Platform, Reply, Request, Time, connected
from tests.support import NOON

from flux.errors import NotFoundError, RefusedError, UnavailableError
from flux.market import UnexpectedReplyError
from flux.market.http import Manners, MarketHttp, retry_after_s

GOOD = {"data": [1, 2, 3]}


def good(request: Request) -> Reply:
    return Reply(GOOD)


@pytest.mark.parametrize(
    "trouble",
    [Reply(status=500), Reply(status=503), Reply(GOOD, cut=5), Reply(b'{"data": [1, 2'), Reply(b"<html>busy</html>")],
    ids=["500", "503", "half a body", "half a document", "no JSON"],
)
async def test_trouble_is_tried_again(trouble: Reply) -> None:
    async with connected("elexon", platform := Platform(good), Time(NOON)) as http:
        platform.trouble = [trouble, trouble]
        assert await http.get("x") == GOOD
    assert len(platform.requests) == 3


async def test_trouble_that_stays_is_told_in_one_line() -> None:
    async with connected("elexon", platform := Platform(lambda _: Reply(status=500)), Time(NOON)) as http:
        with pytest.raises(UnavailableError, match=r"^elexon: x answers 500 Status$"):
            await http.get("x")
    assert len(platform.requests) == QUICK.attempts


async def test_retry_after_holds_up_every_call() -> None:
    async with connected("elexon", platform := Platform(good), time := Time(NOON)) as http:
        platform.trouble = [Reply(status=429, headers={"Retry-After": "17"})]
        assert await http.get("x") == GOOD
        assert time.slept == [17]


async def test_a_long_retry_after_is_not_waited_for() -> None:
    async with connected("elexon", platform := Platform(good), time := Time(NOON)) as http:
        platform.trouble = [Reply(status=429, headers={"Retry-After": "900"})]
        with pytest.raises(UnavailableError, match="left alone for another 900 s"):
            await http.get("x")
        assert (len(platform.requests), time.slept) == (1, [])
        time.seconds = 800
        assert await http.get("x") == GOOD
        assert time.slept == [100]


def test_retry_after_may_be_a_date() -> None:
    assert retry_after_s("Thu, 15 Jan 2026 12:00:30 GMT", NOON) == 30
    assert retry_after_s("Thu, 15 Jan 2026 11:00:30 GMT", NOON) == 0
    assert retry_after_s("soon", NOON) is None
    assert retry_after_s(None) is None


async def test_a_slow_answer_is_given_up() -> None:
    patient = Manners(attempts=2, wait_initial_s=0, wait_jitter_s=0, timeout_s=0.05)
    async with connected("elexon", platform := Platform(good), Time(NOON), patient) as http:
        platform.trouble = [Reply(hang=True)]
        assert await http.get("x") == GOOD
        platform.trouble = [Reply(hang=True), Reply(hang=True)]
        with pytest.raises(UnavailableError, match=r"no whole answer within 0\.05 s"):
            await http.get("x")


async def test_calls_are_paced() -> None:
    paced = Manners(calls=2, per_s=60)
    async with connected("modo", platform := Platform(good), time := Time(NOON), paced) as http:
        for _ in range(5):
            await http.get("x")
            time.seconds += 1
        assert time.slept == [58, 58]
    assert len(platform.requests) == 5


async def test_after_failures_in_a_row_the_platform_is_left_alone() -> None:
    broken = Platform(lambda _: Reply(status=500))
    async with connected("elexon", broken, time := Time(NOON)) as http:
        for _ in range(QUICK.failures):
            with pytest.raises(UnavailableError):
                await http.get("x")
        made = len(broken.requests)
        with pytest.raises(UnavailableError, match="failed 2 times in a row, is tried again in 60 s"):
            await http.get("x")
        assert len(broken.requests) == made  # nobody was asked
        time.seconds += 61
        broken.answer = good
        assert await http.get("x") == GOOD
        broken.answer = lambda _: Reply(status=500)
        with pytest.raises(UnavailableError, match="500"):
            await http.get("x")  # the count began anew


async def test_after_the_rest_one_call_decides() -> None:
    async with connected("elexon", broken := Platform(lambda _: Reply(status=500)), time := Time(NOON)) as http:
        for _ in range(QUICK.failures):
            with pytest.raises(UnavailableError):
                await http.get("x")
        time.seconds += 61
        with pytest.raises(UnavailableError, match="500"):
            await http.get("x")
        with pytest.raises(UnavailableError, match="in a row"):
            await http.get("x")
    assert len(broken.requests) == 3 * QUICK.attempts


async def test_answers_are_kept_as_long_as_asked() -> None:
    async with connected("elexon", platform := Platform(good), time := Time(NOON)) as http:
        for _ in range(3):
            assert await http.get("x", {"day": "1"}, keep_s=60) == GOOD
        assert len(platform.requests) == 1
        await http.get("x", {"day": "2"}, keep_s=60)
        time.seconds += 60
        await http.get("x", {"day": "1"}, keep_s=60)
    assert len(platform.requests) == 3


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, RefusedError), (403, RefusedError), (404, NotFoundError), (400, UnexpectedReplyError)],
)
async def test_what_trying_again_would_not_mend(status: int, error: type[Exception]) -> None:
    async with connected("elexon", platform := Platform(lambda _: Reply(status=status)), Time(NOON)) as http:
        for _ in range(QUICK.failures + 1):
            with pytest.raises(error, match="elexon"):
                await http.get("x")
    assert len(platform.requests) == QUICK.failures + 1


async def test_nobody_there() -> None:
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        time = Time(NOON)
        http = MarketHttp("elexon", "http://127.0.0.1:9", client, QUICK, time.monotonic, time.sleep)
        with pytest.raises(UnavailableError, match=r"elexon: .*connect"):
            await http.get("x")
