"""Limits of requests: never more than the burst and what time has added, for anybody, in any order."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.api.buckets import Buckets, Rate
from flux.errors import InputError

RATE = Rate(60, 100)


def test_a_burst_then_the_rate() -> None:
    buckets = Buckets()
    first = [buckets.take("a", RATE, 0.0) for _ in range(101)]
    assert [one.allowed for one in first] == [True] * 100 + [False]
    assert (first[0].limit, first[0].remaining, first[0].full_in_s) == (100, 99, 1)
    assert (first[100].remaining, first[100].retry_in_s, first[100].full_in_s) == (0, 1, 100)
    assert not buckets.take("a", RATE, 0.9).allowed
    assert buckets.take("a", RATE, 1.0).allowed
    assert buckets.take("b", RATE, 1.0).remaining == 99


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 30)), max_size=300),
    st.floats(1, 6000),
    st.integers(1, 50),
)
def test_never_more_than_burst_and_rate(requests: list[tuple[str, float]], per_minute: float, burst: int) -> None:
    """Over every span that begins at a request; and who is told when to come back is answered then."""
    rate, buckets, now = Rate(per_minute, burst), Buckets(), 0.0
    answered: dict[str, list[float]] = {"a": [], "b": [], "c": []}
    for caller, wait in requests:
        now += wait
        standing = buckets.take(caller, rate, now)
        assert 0 <= standing.remaining < burst
        assert 0 <= standing.retry_in_s <= standing.full_in_s + 1
        if standing.allowed:
            answered[caller].append(now)
        else:
            assert standing.retry_in_s >= 1
            assert buckets.take(caller, rate, now + standing.retry_in_s).allowed
            now += standing.retry_in_s
            answered[caller].append(now)
    for times in answered.values():
        for place, start in enumerate(times):
            for count, end in enumerate(times[place:], start=1):
                assert count <= burst + (end - start) * rate.per_second + 1e-6


@given(st.lists(st.integers(0, 3), min_size=1, max_size=200), st.integers(1, 20))
def test_nobody_pays_for_others(others: list[int], burst: int) -> None:
    """A caller that keeps to its rate is answered whatever the others do."""
    buckets, rate = Buckets(), Rate(60, burst)
    for second, flood in enumerate(others):
        for _ in range(flood * burst):
            buckets.take("loud", rate, float(second))
        assert buckets.take("quiet", rate, float(second)).allowed


def test_memory_is_bounded_and_the_quietest_are_forgotten() -> None:
    buckets = Buckets(most=10)
    for number in range(1000):
        buckets.take("busy", Rate(60, 5), number / 1000)
        buckets.take(number, RATE, number / 1000)
    assert len(buckets) == 10
    assert not buckets.take("busy", Rate(60, 5), 0.9995).allowed


def test_a_clock_that_goes_back_gives_nothing() -> None:
    buckets = Buckets()
    for _ in range(100):
        buckets.take("a", RATE, 1000.0)
    assert not buckets.take("a", RATE, 0.0).allowed
    assert not buckets.take("a", RATE, 1000.0).allowed
    assert buckets.take("a", RATE, 1001.0).allowed


@pytest.mark.parametrize("text", ["", "60", "60/", "/100", "0/100", "-1/5", "60/0", "inf/5", "nan/5", "a/b", "60/1.5"])
def test_a_limit_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="300/500"):
        Rate.parse(text)


def test_a_limit_as_it_is_written() -> None:
    assert Rate.parse("300/500") == Rate(300, 500)
    assert Rate.parse("off") is None
    assert math.isclose((Rate.parse("90/1") or RATE).per_second, 1.5)
