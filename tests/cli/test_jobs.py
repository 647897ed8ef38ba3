"""`flux jobs` and `flux control set-point` on a platform whose edge is played by the test."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from flux.cli.app import app
from flux.errors import UnavailableError
from flux.model import DeviceType, Job
from flux.registry import NewDevice, add_device
from flux.store.db import connect
from flux.store.jobs import create_job, finish_job, list_jobs, take_job

BESS = "WLCE-BESS-01"


@pytest.fixture(autouse=True)
def platform(dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FLUX_DATABASE_URL", dsn)

    async def fill() -> None:
        async with await connect(dsn, autocommit=True) as conn:
            new = NewDevice(name=BESS, type=DeviceType.BESS, site="WLCE", metadata={})
            await add_device(conn, new, actor="test")

    asyncio.run(fill())
    return dsn


def flux(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@contextmanager
def edge(dsn: str, result: dict[str, Any] | None = None, error: str | None = None) -> Iterator[list[Job]]:
    """An edge that takes one job and says this of it."""
    taken: list[Job] = []

    async def work() -> None:
        async with await connect(dsn, autocommit=True) as conn:
            await conn.execute("LISTEN flux_jobs")
            while (job := await take_job(conn, "WLCE", holder="a", run="1")) is None:
                async for _ in conn.notifies(timeout=10, stop_after=1):
                    pass
            taken.append(job)
            await finish_job(conn, job.id, site="WLCE", holder="a", run="1", result=result, error=error)

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    yield taken
    thread.join(20)
    assert not thread.is_alive()


def test_a_set_point_is_ordered_for_a_while_and_told_once_it_is_acknowledged(platform: str) -> None:
    with edge(platform, {"acknowledged_kw": -20.0, "reason": "charging 20.0 kW: set-point by anna"}) as taken:
        said = flux("control", "set-point", BESS, "-20", "--for", "10m")
    assert said.exit_code == 0, said.output
    assert said.output == f"{BESS}: -20.0 kW acknowledged; charging 20.0 kW: set-point by anna\n"
    (job,) = taken
    assert job.args["power_kw"] == -20
    left = datetime.fromisoformat(job.args["until"]) - datetime.now(UTC)
    assert timedelta(minutes=9) < left <= timedelta(minutes=10)
    with edge(platform, {"ended": True}):
        said = flux("control", "set-point", BESS, "--end")
    assert said.output == f"{BESS}: it has ended\n"


def test_one_that_the_edge_refuses_or_never_hears_of_is_told(platform: str) -> None:
    with edge(platform, error="control rests: the site was stopped by ben"):
        said = flux("control", "set-point", BESS, "5")
    assert isinstance(said.exception, UnavailableError)
    assert "control rests: the site was stopped by ben" in str(said.exception)
    said = flux("control", "set-point", BESS, "5", "--wait", "10ms")
    assert "the edge of WLCE has not taken it yet; it waits until" in str(said.exception)
    assert flux("jobs", "list").output.count("waiting") == 1


def test_jobs_are_listed_shown_and_cancelled(platform: str) -> None:
    async def order() -> Job:
        async with await connect(platform, autocommit=True) as conn:
            soon = datetime.now(UTC) + timedelta(minutes=1)
            return await create_job(conn, "WLCE", "test", {"device": BESS}, expires_at=soon, actor="anna")

    assert flux("jobs", "list").output == "no jobs\n"
    job = asyncio.run(order())
    assert str(job.id) in flux("jobs", "list", "--site", "WLCE").output
    assert json.loads(flux("jobs", "list", "--json").output)[0]["state"] == "waiting"
    assert json.loads(flux("jobs", "show", str(job.id)).output)["args"] == {"device": BESS}
    assert flux("jobs", "cancel", str(job.id)).output == "test of WLCE is cancelled\n"
    again = flux("jobs", "cancel", str(job.id))
    assert "is cancelled: only one that waits can be cancelled" in str(again.exception)

    async def found() -> list[Job]:
        async with await connect(platform, autocommit=True) as conn:
            return await list_jobs(conn)

    assert [one.state for one in asyncio.run(found())] == ["cancelled"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["control", "set-point", BESS], "give a power in kW, or --end"),
        (["control", "set-point", BESS, "5", "--end"], "give a power in kW, or --end"),
        (["control", "set-point", BESS, "5", "--for", "15"], "--for: "),
        (["control", "set-point", BESS, "5", "--for", "25h"], "at most 24 hours"),
        (["control", "set-point", "WLCE-BESS-1", "5"], "no device 'WLCE-BESS-1'"),
        (["jobs", "show", "6a1e"], "not the id of a job"),
    ],
)
def test_what_can_not_be_is_one_line(arguments: list[str], words: str) -> None:
    said = flux(*arguments)
    assert words in str(said.exception)
