"""``flux.control`` decides by its arguments alone: no clock, no randomness, no I/O, no logging."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.control.kit import SAMPLE, at, market, plan_of, schedule, state

import flux.control
from flux.control.decide import decide

ROOM = Path(flux.control.__file__).parent
MODULES = sorted(ROOM.rglob("*.py"))

IMPORTS_ALLOWED = {
    "bisect",
    "collections",
    "dataclasses",
    "datetime",
    "difflib",
    "enum",
    "flux",
    "functools",
    "hashlib",
    "html",
    "holidays",
    "itertools",
    "json",
    "math",
    "operator",
    "pydantic",
    "pydantic_core",
    "re",
    "typing",
    "uuid",
    "zoneinfo",
}
# loading a plan reads a file; it does so through flux.config and happens before any decision
IMPORTS_OF_THE_LOADER = {"pathlib"}
ROOMS_ALLOWED = {"control", "errors", "model"}
CALLS_REFUSED = {"open", "print", "input", "eval", "exec", "compile", "__import__", "globals", "id", "hash"}
METHODS_REFUSED = {
    *("now", "utcnow", "today", "fromtimestamp", "time_ns", "monotonic", "perf_counter", "sleep"),
    *("random", "randint", "choice", "shuffle", "uuid4", "urandom", "getenv", "environ"),
    *("read_text", "write_text", "read_bytes", "write_bytes", "unlink", "mkdir", "connect", "getLogger", "get_logger"),
}


def imports_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def faults_of(source: str, loader: bool = False) -> list[str]:
    """What in a module's source could make its answers depend on anything but its arguments."""
    tree, faults = ast.parse(source), []
    allowed = IMPORTS_ALLOWED | (IMPORTS_OF_THE_LOADER if loader else set())
    for name in imports_of(tree):
        parts = name.split(".")
        rooms = ROOMS_ALLOWED | ({"config"} if loader else set())
        if parts[0] not in allowed or (parts[0] == "flux" and parts[1] not in rooms):
            faults.append(f"imports {name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS_REFUSED:
            faults.append(f"calls {node.func.id}")
        if isinstance(node, ast.Attribute) and node.attr in METHODS_REFUSED:
            faults.append(f"uses .{node.attr}")
        if isinstance(node, ast.Global | ast.Nonlocal):
            faults.append("changes a variable of an outer scope")
    return faults


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOM)))
def test_no_module_reaches_out(path: Path) -> None:
    assert faults_of(path.read_text(), loader=path.name == "plan.py") == []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import random",
        "import structlog",
        "from os import environ",
        "from flux.store import db",
        "from flux.config import load_yaml",
        "from datetime import datetime\nx = datetime.now()",
        "from datetime import date\nx = date.today()",
        "x = open('plan.yaml')",
        "print('hello')",
        "from pathlib import Path",
    ],
)
def test_the_scan_sees_what_it_looks_for(source: str) -> None:
    assert faults_of(source)


HARMLESS_EVENTS = ("object.__", "sys._getframe", "code.__new__", "builtins.id", "gc.", "cpython._PySys_ClearAuditHooks")


class Watch:
    """Notes what Python does while it is on: files, sockets, processes, imports all raise audit events."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and not event.startswith(HARMLESS_EVENTS):
            self.seen.append(f"{event} {arguments!r}"[:200])


@pytest.fixture(scope="module")
def watch() -> Watch:
    watcher = Watch()
    sys.addaudithook(watcher)  # can't be taken out again; it sleeps when off
    return watcher


def test_a_decision_opens_nothing(watch: Watch) -> None:
    plan = plan_of(*MODES_OF_ALL_KINDS, head=HOLIDAYS_HEAD)
    states = [
        state(
            f"2026-{month:02d}-15 {hour:02d}:12",
            210,
            35,
            market=market(f"2026-{month:02d}-15 {hour:02d}:00", 95, 120),
            schedule=schedule((f"2026-{month:02d}-15 00:00", f"2026-{month:02d}-16 00:00", "avoid_import")),
        )
        for month in (1, 7)
        for hour in (3, 12, 17)
    ]
    watch.on = True
    try:
        decisions = [decide(plan, each) for each in states]
    finally:
        watch.on = False
    assert watch.seen == []
    assert all(decision.target_power_kw is not None for decision in decisions)


def test_the_watch_sees_a_file_being_opened(watch: Watch, tmp_path: Path) -> None:
    watch.seen.clear()
    watch.on = True
    try:
        (tmp_path / "note").write_text("seen")
    finally:
        watch.on = False
    assert any(event.startswith("open ") for event in watch.seen)


def test_a_decision_draws_no_randomness_and_reads_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    import random
    import time

    plan, cycle = plan_of(*MODES_OF_ALL_KINDS), state("2026-01-15 17:12", 210, 35)
    expected = decide(plan, cycle)

    def refused(*_: object) -> float:
        raise AssertionError("a decision must not call this")

    for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"):
        monkeypatch.setattr(time, name, refused)
    for name in ("random", "randint", "choice", "uniform"):
        monkeypatch.setattr(random, name, refused)
    found = decide(plan, cycle)
    monkeypatch.undo()
    assert found == expected
    assert found.time == at("2026-01-15 17:12")


HOLIDAYS_HEAD = SAMPLE[: SAMPLE.index("  rates:")].replace("holidays: null", "holidays: GB-ENG")
EVERY_DAY = 'periods: [{days: weekdays, start: "00:00", end: "24:00"}]'
MODES_OF_ALL_KINDS = (
    "axle",
    f"discharge_to_soe, soe_kwh: 70, {EVERY_DAY}",
    f"dynamic_peak_discharge, target_soe_kwh: 100, {EVERY_DAY}",
    f"niv_chase, charge_curve: [[0, 475], [200, 0]], {EVERY_DAY}",
    f"charge_to_soe, soe_kwh: 400, {EVERY_DAY}",
    'dynamic_peak_approach, peak: {start: "17:00", end: "19:00"}, to_soe_kwh: 400, assumed_charge_power_kw: 90',
    f"import_avoidance, {EVERY_DAY}",
    f"export_avoidance, {EVERY_DAY}",
    f"import_avoidance_when_short, {EVERY_DAY}",
    "fixed, power_kw: 5, until: 2027-01-01T00:00:00Z",
)
