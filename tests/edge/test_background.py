"""Tasks that crash are started again, and never in silence."""

import asyncio

from structlog.testing import capture_logs
from tests.edge.fakes import VirtualClock, run_virtual

from flux.edge.alarms import Alarms
from flux.edge.background import Background


class Flaky:
    """Crashes ``times``, and works from then on."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.started_at: list[float] = []

    async def run(self) -> None:
        self.started_at.append(asyncio.get_running_loop().time())
        if len(self.started_at) <= self.times:
            raise RuntimeError("a bug")
        await asyncio.Event().wait()


def test_a_crashed_task_comes_back_after_growing_delays() -> None:
    async def story() -> None:
        alarms = Alarms(VirtualClock())
        background, flaky = Background(alarms), Flaky(8)
        with capture_logs() as logs:
            background.start("poll A", flaky.run)
            await asyncio.sleep(240)
        assert [round(at) for at in flaky.started_at] == [0, 1, 3, 7, 15, 31, 63, 123, 183]
        assert [entry["event"] for entry in logs].count("task crashed and is started again") == 8
        assert [alarm.text for alarm in alarms.active] == ["poll A crashed: RuntimeError: a bug"]
        await asyncio.sleep(120)
        assert alarms.active == ()  # it has been well for two minutes
        await background.stop()

    run_virtual(story())


def test_other_tasks_go_on_and_stopping_stops_all() -> None:
    async def story() -> None:
        background = Background(Alarms(VirtualClock()))
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(1)
                ticks += 1

        with capture_logs():
            background.start("crashing", Flaky(100).run)
            background.start("ticking", tick)
            await asyncio.sleep(10.5)
            await background.stop("ticking")
            assert (ticks, background.running("ticking"), background.running("crashing")) == (10, False, True)
            await background.stop()
        assert len(asyncio.all_tasks()) == 1

    run_virtual(story())
