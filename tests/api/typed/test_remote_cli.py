"""The command line on a remote platform: a story of commands says the same as on the platform's own host."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.api.fleet import fill_fleet
from tests.api.live import live_server_on
from tests.support import NOON
from typer.testing import CliRunner

from flux.cli.app import app
from flux.errors import FluxError

Run = Callable[[str], tuple[int, str]]
"""A command line; its exit code and what it says."""
HOURS = (datetime.now(NOON.tzinfo) - NOON) // timedelta(hours=1) + 3
SPAN = "--since 2026-01-15T11:30Z --until 2026-01-15T12:01Z"

STORY = (
    "devices list",
    "devices list --site WLCE --type meter --json",
    "devices show WLCE-GRID-METER",
    "devices show WLCE-GRID-METRE",
    "devices add WLCE-LOAD-METER --type meter --site WLCE --template acuvim2_standard --host 127.0.0.1 --set phases=3",
    "devices add WLCE-LOAD-METER --type meter --site WLCE",
    "devices add WLCE-LOAD-2 --type meter --site WLCE --set phases=7",
    "devices set WLCE-LOAD-METER ct_ratio=200 host=",
    "devices set WLCE-LOAD-METER ct_ratio=300 --unchanged-since 2026-01-01T00:00Z",
    "devices apply-template --template acuvim2_standard --filter type=meter,site=WLCE",
    "devices apply-template --template powerpack_bess.yaml --filter name=WLCE-BESS-01 --commit",
    "devices apply-template --template nobodys --filter name=WLCE-BESS-01",
    "devices apply-template --template /etc/hostname.yaml --filter name=WLCE-BESS-01",
    'devices maintenance start WLCE-BESS-01 --reason "Firmware [upgrade]" --for 2h',
    'devices maintenance start WLCE-BESS-01 --reason "again"',
    "devices maintenance end WLCE-BESS-01 --reason done",
    "devices maintenance end WLCE-BESS-01",
    'devices maintenance plan WLCE-BESS-01 --every "sunday 02:00" --for 2h',
    "devices maintenance plan WLCE-BESS-01 --every sometimes --for 2h",
    "devices maintenance list",
    "devices maintenance cancel nothing",
    "devices decommission WLCE-LOAD-METER --reason replaced",
    "devices history WLCE-BESS-01",
    "groups create fleet --site WLCE --type control",
    "groups create fleet",
    "groups add fleet WLCE-BESS-01 --role backup --priority 2",
    "groups add fleet HMCE-BESS-01",
    "groups show fleet",
    "groups list --site WLCE --json",
    "groups remove fleet WLCE-BESS-01",
    "groups delete fleet",
    "groups show fleet",
    "health",
    "health WLCE-BESS-01 --since {hours}h --json",
    "health --uptime --since {hours}h --site WLCE",
    "alerts list --site WLCE",
    "gaps --site WLCE --since 2026-01-01 --json",
    "gaps --device WLCE-BESS-01",
    "counters list --all",
    "counters accept WLCE-GRID-METER energy_imported_active 2026-01-15T12:02",
    'quality mark WLCE-GRID-METER power_total_active 2026-01-15T11:30 --reason "a test"',
    "quality list --json",
    "quality lift WLCE-GRID-METER power_total_active 2026-01-15T11:30",
    "quality lift WLCE-GRID-METER power_total_active 2026-01-15T11:30",
    f"readings WLCE-GRID-METER {SPAN}",
    f"readings list --device WLCE-BESS-01 {SPAN} --json",
    f"readings list --device WLCE-BESS-01 {SPAN} --csv --last 3",
    "readings latest --site WLCE --json",
    f"rollups WLCE-GRID-METER --level 5m {SPAN} --csv",
    f"rollups WLCE-BESS-01 --level 1h {SPAN} --json",
    f"control log --site WLCE {SPAN}",
    f"control log --site WLCE {SPAN} --changes --json",
    f"control log --site NOWHERE {SPAN}",
    "control why WLCE-BESS-01 --at 2026-01-15T12:00Z",
    "control why WLCE-BESS-01 --at 2025-01-15T12:00Z",
    f"control faults --site WLCE {SPAN}",
    f"control compare --site WLCE {SPAN}",
    "control plan 0123456789abcdef",
    "control schedule add discharge_max --site WLCE --from 2037-01-15T17:00 --until 2037-01-15T17:30",
    "control schedule add explode --site WLCE --until 17:00",
    "control schedule show --site WLCE",
    "control schedule clear --site WLCE",
    "control envelope add --site WLCE --export 100 --from 2037-01-15T11:00 --until 2037-01-15T15:00",
    "control envelope add --site WLCE --until 2037-01-15T15:00",
    "control envelope show --site WLCE",
    "control envelope clear --site WLCE",
    "control withdraw --site WLCE",
    "control stop --site WLCE --reason smoke --wait 0s",
    "control resume --site WLCE",
    "control resume --site WLCE",
    "control stop --site NOWHERE --wait 0s",
    "market list",
    "market show wholesale_price --from 2026-01-15T10:00Z --to 2026-01-15T12:00Z",
    "market show nothing --from 2026-01-15 --to 2026-01-16",
    "readings export --site WLCE -o {folder}/out.csv",
    "readings export --device WLCE-BESS-01 --from 2026-01-15T11:50Z -o {folder}/out.parquet",
    "readings export --site NOWHERE -o {folder}/none.csv",
    "readings import {folder}/late.csv --rejects {folder}/rejects.csv",
    "readings import {folder}/late.csv --rejects {folder}/rejects.csv --force",
    "readings import {folder}/late.csv --device WLCE-BESS-01",
    "readings import {folder}/out.parquet",
    "market export --type wholesale_price -o {folder}/market.csv",
    "market load {folder}/market.csv",
)
SHORT_OF = (
    "devices list --site",
    "devices maintenance start",
    "health --uptime",
    "quality mark",
    "readings list --device WLCE-BESS-01 --since 2026-01-15T11:30Z --until 2026-01-15T12:01Z --json",
    "control why WLCE-BESS-01 --at 2026",
    "control stop --site WLCE",
    "readings import {folder}/late.csv --rejects {folder}/rejects.csv",
)
LATE = """time,device,power_total_active
2026-01-15T12:30:00Z,WLCE-GRID-METER,12.5
2026-01-15T12:31:00Z,NOBODY,1
2026-01-15T12:32:00Z,WLCE-GRID-METER,plenty
"""
_VOLATILE = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "<id>"),
    (re.compile(r'("?age_s"?[:,] ?)[\d.e+]+'), r"\1<age>"),
    (re.compile(r"20(2[6-9]|3[0-6])-(?!01-15)\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(\+00:00|Z)?"), "<now>"),
    (re.compile(r"[\w.-]+@[\w.-]+|test service"), "<actor>"),
    (re.compile(r"after \d+\.\d s"), "after <s>"),
    (re.compile(r" {2,}"), "  "),
    (re.compile(r"\d+\.\d+(?=  \d+\.\d+  \d+\.\d+$|$)", re.MULTILINE), "<n>"),
)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """A command line as it is typed; what differs between any two runs is made equal."""
    monkeypatch.setenv("FLUX_HOME", str(tmp_path / "home"))

    def run(line: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, line, env={"COLUMNS": "400"})
        error = result.exception
        if isinstance(error, FluxError):
            return error.exit_code, str(error)
        if error is not None and not isinstance(error, SystemExit):
            raise error
        return result.exit_code, result.output

    return run


SHORT = tuple(line for line in STORY if line.startswith(SHORT_OF))
"""What takes a few seconds: one or two of each subject."""


def story(run: Run, folder: Path, lines: tuple[str, ...]) -> list[tuple[str, int, str]]:
    folder.mkdir()
    (folder / "late.csv").write_text(LATE)
    told = []
    for line in lines:
        code, said = run(line.replace("{folder}", str(folder)).replace("{hours}", str(HOURS)))
        said = said.replace(str(folder), "{folder}")
        for pattern, word in _VOLATILE:
            said = pattern.sub(word, said)
        told.append((line, code, said))
    return told


@pytest.mark.parametrize("lines", [SHORT, pytest.param(STORY, marks=pytest.mark.long)], ids=["short", "whole"])
def test_every_command_says_the_same_on_a_remote_platform(
    two_databases: tuple[str, str],
    typed: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: tuple[str, ...],
) -> None:
    for dsn in two_databases:
        fill_fleet(dsn)
    monkeypatch.setenv("FLUX_DATABASE_URL", two_databases[0])
    here = story(typed, tmp_path / "here", lines)
    monkeypatch.setenv("FLUX_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    with live_server_on(two_databases[1]) as live:
        monkeypatch.setenv("FLUX_URL", live.url)
        monkeypatch.setenv("FLUX_KEY", live.key("service"))
        there = story(typed, tmp_path / "there", lines)
    for local, remote in zip(here, there, strict=True):
        assert remote == local
    assert {code for _, code, _ in here} >= ({0, 1, 2, 3, 4, 5, 6} if lines is STORY else {0, 1, 5, 6})
    for name in ("out.csv", "out.parquet", "rejects.csv") if lines is STORY else ("rejects.csv",):
        assert _contents(tmp_path / "there" / name) == _contents(tmp_path / "here" / name)


def _contents(file: Path) -> object:
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(file)
        return table.drop_columns(["device_id"]).to_pylist()
    for pattern, word in _VOLATILE[:1]:
        text = pattern.sub(word, file.read_text())
    return text
