"""How ``flux edge`` is told to stop."""

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any, Self, cast

import pytest

from flux.edge.main import _run
from flux.edge.runtime import EdgeRuntime


class Runtime:
    """Stands in for the edge; asks itself to stop as soon as it runs."""

    def __init__(self, number: signal.Signals) -> None:
        self._number = number
        self.stopped = False

    async def __aenter__(self) -> Self:
        os.kill(os.getpid(), self._number)
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.stopped = True


@pytest.fixture(autouse=True)
def harmless_signals() -> Iterator[None]:
    """A signal that nobody handles must not end the tests."""
    before: dict[signal.Signals, Any] = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        before[number] = signal.signal(number, lambda *_: None)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_it_in_order(number: signal.Signals) -> None:
    """SIGHUP comes when the terminal is closed: the batteries are told 0 kW then as well."""
    runtime = Runtime(number)
    async with asyncio.timeout(2):
        await _run(cast(EdgeRuntime, runtime))
    assert runtime.stopped


async def test_under_nohup_a_closed_terminal_changes_nothing() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    runtime = Runtime(signal.SIGHUP)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await _run(cast(EdgeRuntime, runtime))
