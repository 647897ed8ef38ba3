"""`flux market`: platforms and files into the store, and back out as tables, JSON, CSV and pictures."""

import asyncio
import csv
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from psycopg import AsyncConnection
from tests.market.platforms import Platform, Reply, elexon
from tests.market.test_axle import Site
from tests.support import NOON, add_device, bess_reading
from typer.testing import CliRunner, Result

from flux.cli.app import app
from flux.errors import ConflictError, InputError, NotFoundError, UnavailableError
from flux.model import MarketDataType, MarketValue
from flux.store.dispatch import schedule_of
from flux.store.ingest import ingest
from flux.store.market import upsert

Conn = AsyncConnection[Any]
Run = Callable[..., Result]
HALF_HOUR = timedelta(minutes=30)


@pytest.fixture
def run(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command on the test's database, in this process; errors of ours come back as they are raised."""
    monkeypatch.setenv("FLUX_DATABASE_URL", dsn)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(app, ["market", *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@contextmanager
def served(platform: Platform) -> Iterator[Platform]:
    """A platform in a thread of its own: the command has this one."""
    loop, up = asyncio.new_event_loop(), threading.Event()
    stop = asyncio.Event()

    async def serve() -> None:
        async with platform.running():
            up.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert up.wait(10)
        yield platform
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


def as_json(result: Result) -> Any:
    return json.loads(result.stdout)


WRONG = [
    (["fetch", "n2ex"], "one of elexon, modo, axle"),
    (["fetch", "modo"], "not set in the environment: MODO_API_TOKEN"),
    (["fetch", "axle"], "--site and --asset"),
    (["fetch", "axle", "--site", "W", "--asset", "a"], "AXLE_USERNAME, AXLE_PASSWORD"),
    (["fetch", "elexon", "--from", "2026-02-01", "--to", "2026-01-01"], "is not before --to"),
    (["fetch", "elexon", "--known-after", "20"], "--known-after: '20' is not a duration"),
    (["show", "3", "--history", "--as-of", "1h"], "--history or --as-of"),
    (["types", "add", "x", "--unit", "MW", "--holds", "0s"], "holds for some time"),
    (["types", "add", "12", "--unit", "MW"], "no name for a type"),
    (["import", "x.csv", "--type", "3", "--zone", "Europe/Lundun"], "not a time zone"),
    (["import", "x.csv", "--type", "3", "--day", "d"], "--day and --period go together"),
    (["plot", "-o", "x.svg"], "no values in that span"),
]


class TestFetch:
    def test_history_from_elexon_twice(self, run: Run) -> None:
        with served(Platform(elexon)) as platform:
            span = ("--from", "2026-03-28", "--to", "2026-04-07", "--base-url", platform.url)  # 10 GB days less an hour
            first = run("fetch", "elexon", *span)
            again = run("fetch", "elexon", *span)
        half_hours = 10 * 48 - 2
        assert f"{4 * half_hours:,} new or changed" in first.stdout
        assert ", 0 new or changed" in again.stdout
        counts = {row["name"]: row["count"] for row in as_json(run("list", "--json"))}
        assert counts == {
            "niv_estimate": half_hours, "wholesale_price": half_hours, "imbalance_price": half_hours,
            "axle_dispatch": 0, "imbalance_volume": half_hours,
        }  # fmt: skip

    def test_a_stated_delay_in_place_of_publication(self, run: Run) -> None:
        with served(Platform(elexon)) as platform:
            run("fetch", "elexon", "--from", "2026-01-15", "--to", "2026-01-15T01:00Z", "--known-after", "35m",
                "--base-url", platform.url)  # fmt: skip
        rows = as_json(run("show", "wholesale_price", "--from", "2026-01-15", "--to", "2026-01-16", "--json"))
        assert [row["known_at"] for row in rows] == ["2026-01-15T00:35:00+00:00", "2026-01-15T01:05:00+00:00"]
        assert rows[0]["metadata"]["known_at"] == "assumed"

    async def test_a_schedule_from_axle(self, run: Run, db: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
        site = Site()
        start = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
        times = {"start_timestamp": start.isoformat(), "end_timestamp": (start + HALF_HOUR).isoformat()}
        site.schedule = {"schedule_steps": [times | {"action": "charge_max"}]}
        await add_device(db, "WLCE-BESS-01", "bess")
        monkeypatch.setenv("AXLE_USERNAME", "site@example.org")
        monkeypatch.setenv("AXLE_PASSWORD", "p&ss=word")
        with served(site.platform) as platform:
            command = ("fetch", "axle", "--site", "WLCE", "--asset", "asset-1", "--base-url", platform.url)
            told = await asyncio.to_thread(run, *command)
        assert f"{start:%Y-%m-%d %H:%M}" in told.stdout
        assert [stored.step.action for stored in await schedule_of(db, "WLCE")] == ["charge_max"]

    def test_the_worker_does_it_by_its_file(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "no market platform has been asked yet" in run("status").stdout
        with served(Platform(elexon)) as platform:
            file = tmp_path / "worker.yaml"
            file.write_text(f"market:\n  elexon: {{every: 5m, back: 1h, base_url: '{platform.url}'}}\n")
            monkeypatch.setenv("FLUX_WORKER_FILE", str(file))
            result = CliRunner().invoke(app, ["worker", "--once"])
            assert result.exit_code == 0, result.exception
        (row,) = as_json(run("status", "--json"))
        assert (row["name"], row["failure"]) == ("market elexon", None)
        assert row["age_s"] < 60
        assert {row["name"] for row in as_json(run("list", "--json")) if row["count"]} >= {
            "imbalance_price",
            "niv_estimate",
        }

    def test_a_platform_that_answers_nonsense(self, run: Run) -> None:
        with (
            served(Platform(lambda _: Reply({"rows": []}))) as platform,
            pytest.raises(UnavailableError, match="`data`"),
        ):
            run("fetch", "elexon", "--base-url", platform.url)

    def test_what_is_wrong_is_told(self, run: Run) -> None:
        for arguments, told in WRONG:
            with pytest.raises(InputError, match=told):
                run(*arguments)


class TestImport:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "prices.csv"
        path.write_text("start,p\n2024-06-01 13:00,9.5\n2024-06-01 13:30,-1\n")
        return path

    def options(self, file: Path) -> list[str]:
        mapping = ["--value", "p", "--unit", "p/kWh", "--zone", "Europe/London", "--known-after", "20m"]
        return ["import", str(file), "--type", "imbalance_price", *mapping]

    def test_as_it_was_known(self, run: Run, file: Path) -> None:
        told = run(*self.options(file)).stdout
        assert "2 values from -10 to 95, 2024-06-01 12:00 to 2024-06-01 12:30 UTC" in told
        assert "2 values, 2 new or changed" in told
        at = ["show", "imbalance_price", "--from", "2024-06-01", "--to", "2024-06-02", "--json", "--as-of"]
        values = [[row["value"] for row in as_json(run(*at, f"2024-06-01T12:{m}Z"))] for m in (19, 20, 50)]
        assert values == [[], [95.0], [95.0, -10.0]]

    def test_a_dry_run_stores_nothing(self, run: Run, file: Path) -> None:
        assert "nothing was stored" in run(*self.options(file), "--dry-run").stdout
        assert (
            "no imbalance_price in that span" in run("show", "3", "--from", "2024-06-01", "--to", "2024-06-02").stdout
        )

    def test_history_is_not_rewritten(self, run: Run, file: Path) -> None:
        run(*self.options(file))
        file.write_text(file.read_text().replace("9.5", "9.6"))
        with pytest.raises(ConflictError, match="1 were left out"):
            run(*self.options(file))
        again = [part for part in self.options(file) if part not in ("--known-after", "20m")]
        assert "1 new or changed" in run(*again).stdout  # a correction, known since now
        show = ("show", "3", "--from", "2024-06-01", "--to", "2024-06-02")
        assert [row["value"] for row in as_json(run(*show, "--json"))] == [96.0, -10.0]
        rows = list(csv.DictReader(run(*show, "--history", "--csv").stdout.splitlines()))
        assert [row["value"] for row in rows] == ["95.0", "96.0", "-10.0"]

    def test_a_type_of_ones_own(self, run: Run, file: Path) -> None:
        run("types", "add", "carbon", "--unit", "g/kWh", "--description", "carbon intensity", "--holds", "1h")
        with pytest.raises(ConflictError):
            run("types", "add", "carbon", "--unit", "g/kWh")
        added = as_json(run("types", "list", "--json"))[-1]
        assert added == {
            "id": 100, "name": "carbon", "unit": "g/kWh", "holds": "1h", "description": "carbon intensity",
        }  # fmt: skip
        run("import", str(file), "--type", "carbon", "--value", "p", "--zone", "Europe/London")
        assert len(as_json(run("show", "100", "--from", "2024-06-01", "--to", "2024-06-02", "--json"))) == 2
        with pytest.raises(NotFoundError, match=r"carbon \(100\)"):
            run("show", "carbonn")


@pytest.fixture
async def operated(db: Conn) -> None:
    """An hour of chasing: charged while it was cheap and long, discharged while it was dear and short."""
    battery = await add_device(db, "WLCE-BESS-01", "bess")
    power = [(NOON + timedelta(minutes=n), -60.0 if n < 30 else 30.0) for n in range(60)]
    await ingest(db, [bess_reading(battery, time, target_power=kw, command_source=1) for time, kw in power])
    figures = {MarketDataType.IMBALANCE_PRICE: (20.0, 100.0), MarketDataType.NIV: (-300.0, 200.0)}
    await upsert(
        db,
        [
            MarketValue(type=kind, time=NOON + n * HALF_HOUR, value=value, known_at=NOON + n * HALF_HOUR)
            for kind, pair in figures.items()
            for n, value in enumerate(pair)
        ],
    )


@pytest.mark.usefixtures("operated")
class TestPictures:
    SPAN = ("--from", "2026-01-15", "--to", "2026-01-16")

    def test_correlate(self, run: Run, tmp_path: Path) -> None:
        picture = tmp_path / "power.svg"
        rows = as_json(run("correlate", *self.SPAN, "--json", "--as-then", "--plot", str(picture)))
        assert [(row["device"], row["source"], row["readings"]) for row in rows] == [
            ("WLCE-BESS-01", "all", 60),
            ("WLCE-BESS-01", "niv chase", 60),
        ]
        assert [rows[1][key] for key in ("charge_price", "discharge_price")] == pytest.approx([20, 100])
        circles = list(ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}circle"))
        assert len(circles) == 2 * 60 + 1  # and one in the legend
        table = run("correlate", *self.SPAN).stdout
        assert "niv chase" in table
        assert "1.000" in table
        assert "no readings" in run("correlate", "--from", "2025-01-15", "--to", "2025-01-16").stdout

    def test_plot(self, run: Run, tmp_path: Path) -> None:
        picture = tmp_path / "prices.svg"
        assert "4 values" in run("plot", *self.SPAN, "-o", str(picture)).stdout
        texts = [text.text for text in ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")]
        assert {"imbalance_price", "niv_estimate", "£/MWh", "MW"} <= set(texts)
        with pytest.raises(InputError, match="no values"):
            run("plot", *self.SPAN, "--as-of", "2026-01-15T11:59Z", "-o", str(picture))
        with pytest.raises(InputError, match="No such file"):
            run("plot", *self.SPAN, "-o", str(tmp_path / "no" / "p.svg"))
