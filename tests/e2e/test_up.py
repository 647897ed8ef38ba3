"""`flux up` as a process: comes up, outlives its database's death, stops cleanly, holds its home alone."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from flux.store.server import EmbeddedServer

pytestmark = pytest.mark.timeout(180)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.1)


@contextmanager
def running(home: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "FLUX_HOME": str(home), "FLUX_HTTP_PORT": str(port)}
    environment.pop("FLUX_DATABASE_URL", None)
    with subprocess.Popen(
        [sys.executable, "-m", "flux", "up"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=2.0, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def check_first_key(home: Path, port: int) -> str:
    """The key of the first start works, and is its owner's alone; without one nothing is told."""
    file = home / "api" / "service.key"
    assert file.stat().st_mode & 0o777 == 0o600
    key = file.read_text().strip()
    url = f"http://127.0.0.1:{port}/v1/devices"
    assert httpx.get(url, headers={"apikey": key}, trust_env=False).json() == []
    assert httpx.get(url, trust_env=False).status_code == 401
    assert httpx.get(f"{url}?apikey={key}", trust_env=False).status_code == 401
    return key


def told_at_the_start(flux: subprocess.Popen[str]) -> str:
    """What it prints until it runs; the line to paste works as it is."""
    assert flux.stdout is not None
    told = ""
    for line in flux.stdout:
        told += line
        if line.startswith("Ctrl-C"):
            break
    (pasted,) = (line.strip().removeprefix("$ ") for line in told.splitlines() if line.startswith("  $ "))
    assert subprocess.run(["bash", "-c", pasted], capture_output=True, timeout=30).stdout == b"[]"
    return told


def test_up_survives_its_databases_death_and_stops_cleanly(home: Path) -> None:
    port = free_port()
    with running(home, port) as flux:
        until(lambda: answers(port), "HTTP answers")
        with running(home, free_port()) as second:
            output, _ = second.communicate(timeout=30)
            assert second.returncode == 4
            assert f"process {flux.pid}" in output
        began = told_at_the_start(flux)
        key = check_first_key(home, port)
        first_server = EmbeddedServer(home).pid
        os.kill(first_server, signal.SIGKILL)
        until(lambda: answers(port) and EmbeddedServer(home).pid != first_server, "HTTP answers again")
        flux.send_signal(signal.SIGINT)
        output, _ = flux.communicate(timeout=30)
        assert flux.returncode == 0
        assert "stopped; everything is kept" in output
        assert "Traceback" not in output
        assert "made the key 'service'" in began
        logs = "".join(file.read_text() for file in (home / "logs").iterdir())
        assert key[-20:] not in began + output + logs, "a key is told by its file, never by itself"
    assert not answers(port)
    with pytest.raises(Exception, match="no database server runs"):
        _ = EmbeddedServer(home).pid
