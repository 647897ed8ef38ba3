"""Children of `flux up`: real processes that crash, are stopped, and are orphaned."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flux.errors import InputError
from flux.local import supervisor as supervisor_module
from flux.local.supervisor import Child, ChildSpec, Supervisor


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_child_that_crashes_is_started_again(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        child = await supervisor.start(ChildSpec("version", ["version"], {}))
        await until(lambda: child.restarts >= 1)
        assert child.log_file.read_text().strip() == "0.1.0" or child.log_file.read_text().count("0.1.0") >= 1


async def test_a_child_that_cannot_be_started_again_at_once_is_tried_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No memory for a new process, no descriptor for its log: that passes, and somebody has to control the battery."""
    monkeypatch.setattr(supervisor_module, "_FIRST_DELAY_S", 0.05)
    real, refused = Child._spawn, 0

    async def spawn(child: Child) -> asyncio.subprocess.Process:
        nonlocal refused
        if child.restarts in (1, 2):
            refused += 1
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return await real(child)

    monkeypatch.setattr(Child, "_spawn", spawn)
    async with Supervisor(tmp_path) as supervisor:
        child = await supervisor.start(ChildSpec("version", ["version"], {}))
        await until(lambda: child.log_file.read_text().count("0.1.0") >= 2)
        assert refused == 2


async def test_leaving_the_block_stops_every_child(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        child = await supervisor.start(ChildSpec("nothing", ["no-such-command"], {}))
        await until(lambda: child.exit_code == 2)
        assert any("no-such-command" in line.lower() for line in child.last_lines(10))
    assert not child.running
    assert supervisor.children == []


async def test_a_child_that_refuses_to_run_ends_the_work(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text("site: WLCE\nrecording: {poling_interval: 30s}\nstate_dri: x\n")
    (tmp_path / "edge.log").write_text("error: of another day\n")
    async with Supervisor(tmp_path) as supervisor:
        child = await supervisor.start(ChildSpec("edge", ["edge", "--site", str(site)], {}))
        with pytest.raises(InputError) as caught:
            await supervisor.while_accepted(asyncio.Event().wait())
        assert child.restarts == 0
    assert str(caught.value).splitlines() == [
        f"{site}:2: recording.poling_interval: unknown key; did you mean 'polling_interval'?",
        f"{site}:3: state_dri: unknown key; did you mean 'state_dir'?",
    ]


async def test_work_is_waited_for_while_all_children_run(tmp_path: Path) -> None:
    done = asyncio.Event()
    async with Supervisor(tmp_path) as supervisor:
        await supervisor.start(ChildSpec("version", ["version"], {}))
        asyncio.get_running_loop().call_soon(done.set)
        await supervisor.while_accepted(done.wait())


_ORPHAN = """
import asyncio, sys
from pathlib import Path
from flux.local.supervisor import ChildSpec, Supervisor

async def main() -> None:
    async with Supervisor(Path(sys.argv[1])) as supervisor:
        child = await supervisor.start(ChildSpec("sleeper", sys.argv[2:], {}))
        print(child._process.pid, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_supervisor_leaves_no_orphan(tmp_path: Path) -> None:
    """`flux worker` against nothing waits for its database for ever; it must end with the supervisor."""
    environment = {**os.environ, "FLUX_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    with subprocess.Popen(
        [sys.executable, "-c", _ORPHAN, str(tmp_path), "worker"], stdout=subprocess.PIPE, text=True, env=environment
    ) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        supervisor.send_signal(signal.SIGKILL)
        supervisor.wait(5)
    asyncio.run(until(lambda: not _alive(pid)))


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def test_no_log_yet_is_no_lines(tmp_path: Path) -> None:
    assert Child(ChildSpec("x", [], {}), tmp_path / "none.log").last_lines() == []
