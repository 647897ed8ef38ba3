"""`flux sim` as a process: starts, stops, refuses, and is killed without forgetting what it has shown."""

import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from flux.cli.sim import sim
from flux.devices.simulator import StateFile, read_reply_log, saved_time
from flux.errors import InputError, NotFoundError

REQUEST = struct.pack(">HHHBBHH", 1, 0, 6, 1, 3, 16456, 4)
"""Imported and exported active energy of an Acuvim."""


@contextmanager
def flux_sim(folder: Path, *arguments: str) -> Iterator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    """A running `flux sim`, and the line that it printed; killed at the end if it still runs."""
    command = [sys.executable, "-m", "flux", "sim", "--json", *arguments]
    with (folder / "stderr").open("a") as stderr:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (folder / "stderr").read_text()
        yield process, json.loads(line)
    finally:
        process.kill()
        process.communicate()


def ports_of(printed: dict[str, Any]) -> dict[str, int]:
    return {device["name"]: device["port"] for device in printed["devices"]}


def ask(connection: socket.socket) -> tuple[int, int]:
    """The two counters, in 0.1 kWh."""
    connection.sendall(REQUEST)
    reply = b""
    while len(reply) < 17:
        part = connection.recv(100)
        if not part:
            raise ConnectionResetError
        reply += part
    imported, exported = struct.unpack_from(">II", reply, 9)
    return imported, exported


def free_ports(count: int) -> int:
    """The first of some ports in a row that are free."""
    for first in range(21_000 + os.getpid() % 300 * 30, 60_000, 30):
        sockets = []
        try:
            for port in range(first, first + count):
                sockets.append(socket.socket())
                sockets[-1].bind(("127.0.0.1", port))
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
        return first
    raise AssertionError("no free ports")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly_and_keeps_its_state(tmp_path: Path, number: signal.Signals) -> None:
    options = ("--port", "0", "--state", "s.json", "--reply-log", "r.jsonl", "--speed", "600")
    with flux_sim(tmp_path, *options) as (process, printed):
        assert [device["name"] for device in printed["devices"]] == [
            "WLCE-BESS-01",
            "WLCE-GRID-METER",
            "WLCE-GENERATION-METER",
            "WLCE-LOAD-METER",
            "WLCE-BESS-METER",
        ]
        with socket.create_connection(("127.0.0.1", ports_of(printed)["WLCE-LOAD-METER"])) as connection:
            last = ask(connection)
        process.send_signal(number)
        assert process.wait(10) == 0
    state = json.loads((tmp_path / "s.json").read_text())
    assert state["devices"]["WLCE-LOAD-METER"]["counters"][0][0] * 10 >= last[0] - 0.5
    (reply,) = read_reply_log(tmp_path / "r.jsonl")
    assert (reply.device, reply.address, reply.words[1]) == ("WLCE-LOAD-METER", 16456, last[0])


def test_a_killed_simulator_never_takes_a_counter_back(tmp_path: Path) -> None:
    first, chance = free_ports(5), random.Random(7)
    options = ("--port", str(first), "--state", "s.json", "--speed", "1200", "--start", "2026-01-15T17:00Z")
    seen = [(0, 0)]
    for _ in range(4):
        with flux_sim(tmp_path, *options) as (process, _):
            until = time.monotonic() + chance.uniform(0.2, 0.6)
            with socket.create_connection(("127.0.0.1", first + 1)) as connection:
                while time.monotonic() < until:
                    seen.append(ask(connection))
                process.kill()
            process.wait(10)
    for before, after in pairwise(seen):
        assert after[0] >= before[0]
        assert after[1] >= before[1]
    assert seen[-1][0] > 100, "it counted"
    assert len(seen) > 1000
    saved = saved_time(StateFile(tmp_path / "s.json"))
    assert saved is not None
    assert saved.isoformat() > "2026-01-15T17:10", "its time went on as well"


def test_a_port_in_use_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    first = free_ports(5)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first + 2))
        taken.listen()
        command = [sys.executable, "-m", "flux", "sim", "--port", str(first), "--state", "s.json"]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert f"127.0.0.1:{first + 2} (WLCE-GENERATION-METER): address already in use" in line
    assert line.endswith("; stop what uses it, or choose another port")
    assert not (tmp_path / "s.json").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"speed": 0}, InputError, "--speed 0"),
        ({"start": "noon"}, InputError, "--start 'noon' is no time"),
        ({"site": "a b"}, InputError, "--site 'a b'"),
        ({"port": 65535}, InputError, "five ports"),
        ({"config": Path("nowhere.yaml")}, InputError, "nowhere.yaml: No such file"),
        ({"config": Path("x.yaml"), "port": 1}, InputError, "leave out --site, --host and --port"),
        ({"load": Path("nowhere.csv")}, InputError, "nowhere.csv: No such file"),
        ({"fault": ["WLCE-BESS-01:explode"]}, InputError, "'explode' is no kind of fault"),
        ({"fault": ["WLCE-BESS-02:drop"]}, NotFoundError, "no simulated device 'WLCE-BESS-02'"),
        ({"reply_log": Path("no/such/folder.jsonl")}, InputError, "reply log no/such/folder.jsonl"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        sim(**{"state": tmp_path / "s.json"} | options)
    assert list(tmp_path.iterdir()) == []
