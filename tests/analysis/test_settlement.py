"""Settlement on a real database: known meters, known sums, months with a clock change, and what weakens a month."""

import csv
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb
from tests.support import add_device, fetch, meter_reading

from flux.analysis.flows import Direction
from flux.analysis.settlement import Settlement, month_span, settle
from flux.analysis.settlement_facts import meters_of, read_facts
from flux.analysis.settlement_notices import Grade
from flux.analysis.settlement_pages import as_mapping, write_csv, write_page
from flux.analysis.tariff import Tariff, imbalance_tariff, parse_tariff
from flux.config import YamlDocument
from flux.errors import InputError, NotFoundError
from flux.model import MarketDataType, MarketValue
from flux.store.ingest import ingest
from flux.store.market import upsert

Conn = AsyncConnection[Any]
HALF_HOUR = timedelta(minutes=30)
READ_EVERY = timedelta(minutes=15)

TARIFF = """\
supply_points: {nsp: 1.1}
rates:
  import:
    - {name: energy, market: imbalance, supply_point: nsp}
    - {name: red, price: 100, periods: [{days: weekdays, start: "17:00", end: "19:00"}]}
  export: [{name: energy, market: imbalance, factor: -1, supply_point: nsp}]
  load: [{name: homes, price: -200}]
daily: [{name: standing, charge: 0.5}]
"""


def tariff(text: str = TARIFF) -> Tariff:
    return parse_tariff(YamlDocument(text, "tariff.yaml"))


def imported(hours: float) -> float:
    """kWh that the counter stands at, so many hours after the first reading: 12 kWh an hour, from 1,000 on."""
    return 1000.0 + 12.0 * hours


def exported(hours: float) -> float:
    return 500.0 + 2.0 * hours


async def read(
    conn: Conn,
    meter: UUID,
    start: datetime,
    end: datetime,
    *,
    import_: Callable[[float], float] = imported,
    missing: tuple[datetime, datetime] | None = None,
) -> None:
    """Readings every quarter of an hour over [start, end], none in between ``missing``."""
    readings, time = [], start
    while time <= end:
        if missing is None or not missing[0] < time < missing[1]:
            hours = (time - start) / timedelta(hours=1)
            counters = {"energy_imported_active": import_(hours), "energy_exported_active": exported(hours)}
            readings.append(meter_reading(meter, time, **counters))
        time += READ_EVERY
    await ingest(conn, readings)
    await conn.execute("CALL flux.refresh_rollups()")


async def price(conn: Conn, start: datetime, end: datetime, value: float = 80.0, **more: Any) -> None:
    count = (end - start) // HALF_HOUR
    await upsert(
        conn,
        [
            MarketValue(type=MarketDataType.IMBALANCE_PRICE, time=start + n * HALF_HOUR, value=value, **more)
            for n in range(count)
        ],
    )


async def group(conn: Conn, name: str, **roles: UUID) -> None:
    """By plain SQL, as people write it."""
    await conn.execute("INSERT INTO flux.device_groups (name) VALUES (%s)", (name,))
    for role, device in roles.items():
        await conn.execute(
            """INSERT INTO flux.device_group_members (group_id, device_id, role)
               SELECT id, %s, %s FROM flux.device_groups WHERE name = %s""",
            (device, role, name),
        )


START, END = datetime(2024, 1, 8, tzinfo=UTC), datetime(2024, 1, 11, tzinfo=UTC)
"""Monday to Wednesday in winter: 72 hours, 144 half hours; 864 kWh of import, 144 kWh of export."""


async def settled(
    conn: Conn, *devices: str, month: str | None = None, rates: Tariff | None = None, **given: Any
) -> Settlement:
    """Of START to END, or of a whole month."""
    start, end = month_span(month) if month else (START, END)
    rates, name, as_of = rates or tariff(), given.pop("group", None), given.get("as_of")
    roles = await meters_of(conn, name, devices)
    now = given.pop("now", datetime.now(UTC))
    facts = await read_facts(conn, roles, start, end, markets=sorted(rates.markets), now=now, as_of=as_of)
    return settle(facts, start, end, rates, **given)


def told(found: Settlement, grade: Grade) -> list[str]:
    return [notice.text for notice in found.notices if notice.grade is grade]


async def test_a_month_by_hand(db: Conn, tmp_path: Path) -> None:
    start, end = month_span("2024-01")
    await read(db, await add_device(db, "GRID", metadata={"meter_type": "grid"}), start, end)
    await price(db, start, end)
    found = await settled(db, "GRID", month="2024-01")
    assert found.notices == ()
    assert len(found.lines) == 31 * 48
    (total,) = found.totals
    assert (total.import_kwh, total.export_kwh) == pytest.approx((744 * 12, 744 * 2), abs=1e-6)
    # 6 kWh in each half hour at £80 × 1.1; of 23 weekdays 4 half hours each are £100/MWh dearer
    assert total.by_rate[Direction.IMPORT] == pytest.approx({"energy": 8928 * 0.088, "red": 23 * 4 * 6 * 0.1})
    assert total.export_gbp == pytest.approx(-1488 * 0.088)
    assert found.daily == {"standing": 15.5}
    assert found.total_gbp == pytest.approx(8928 * 0.088 + 55.2 - 1488 * 0.088 + 15.5)
    # every line is its energy at its rate, and together they are the totals
    for line in found.lines:
        assert line.import_kwh is not None
        assert line.import_rate is not None
        assert line.import_gbp == pytest.approx(line.import_kwh * line.import_rate / 1000)
    assert sum(line.import_gbp or 0.0 for line in found.lines) == pytest.approx(total.import_gbp)
    path = tmp_path / "lines.csv"
    write_csv(path, found)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert sum(float(row["import_kwh"]) for row in rows) == pytest.approx(8928, abs=1e-6)
    assert (rows[35]["settlement_date"], rows[35]["settlement_period"]) == ("2024-01-01", "36")


@pytest.mark.parametrize(
    ("month", "day", "periods", "hours"),
    [("2024-03", "2024-03-31", 46, 743), ("2024-10", "2024-10-27", 50, 745)],
    ids=["forward", "back"],
)
async def test_a_month_with_a_clock_change(
    db: Conn, month: str, day: str, periods: int, hours: int, tmp_path: Path
) -> None:
    start, end = month_span(month)
    await read(db, await add_device(db, "GRID"), start, end)
    await price(db, start, end)
    found = await settled(db, "GRID", month=month)
    assert found.notices == ()
    of_day = [line for line in found.lines if line.period.day.isoformat() == day]
    assert [line.period.number for line in of_day] == list(range(1, periods + 1))
    assert len(found.lines) == hours * 2
    assert found.totals[0].import_kwh == pytest.approx(hours * 12, abs=1e-6)
    assert found.daily == pytest.approx({"standing": 31 * 0.5})
    red = [line for line in found.lines if line.import_rate == pytest.approx(188)]
    assert {line.period.start.astimezone(found.tariff.zone).hour for line in red} == {17, 18}
    write_page(tmp_path / "page.html", found, "Settlement")
    assert f"{periods} periods" in (tmp_path / "page.html").read_text()


async def test_lines_and_listed_gaps_are_what_the_counters_counted(db: Conn) -> None:
    meter = await add_device(db, "GRID", metadata={"meter_type": "grid"})
    await read(db, meter, START, END, missing=(START + timedelta(hours=6), START + timedelta(hours=36)))
    await price(db, START, END)
    found = await settled(db, "GRID")
    (total,) = found.totals
    assert total.listed_import_kwh == pytest.approx(30 * 12)
    assert total.import_kwh + total.listed_import_kwh == pytest.approx(864, abs=1e-6)
    assert total.export_kwh + total.listed_export_kwh == pytest.approx(144, abs=1e-6)
    serious = told(found, Grade.SERIOUS)
    assert any(
        "360.00 kWh of import and 60.00 kWh of export are in no half hour; listed in the totals" in t for t in serious
    )
    assert any(t.startswith("59 half hours without a figure, the first 2024-01-08 period 14") for t in serious)


async def test_a_gap_that_reaches_out_of_the_month_is_in_no_total(db: Conn) -> None:
    meter = await add_device(db, "GRID")
    missing = (END - timedelta(days=1), END + timedelta(days=1))
    await read(db, meter, START, END + timedelta(days=2), missing=missing)
    found = await settled(db, "GRID", rates=imbalance_tariff())
    assert found.totals[0].listed_import_kwh == 0.0
    assert found.totals[0].import_kwh == pytest.approx(2 * 24 * 12, abs=1e-6)
    assert any("it reaches out of the span, so it is in no total" in text for text in told(found, Grade.SERIOUS))


async def test_interpolated_half_hours_are_told_by_how_much_they_matter(db: Conn) -> None:
    for name, hours in (("SHORT", 0.5), ("LONG", 20)):
        away = START + timedelta(hours=30)
        await read(db, await add_device(db, name), START, END, missing=(away, away + timedelta(hours=hours)))
    await price(db, START, END)
    found = await settled(db, "SHORT", "LONG")
    assert sum(line.samples == 0 for line in found.lines if line.meter == "LONG") == 39
    spans = {n.meter: n for n in found.notices if "shared out evenly" in n.text}
    assert {meter: notice.grade for meter, notice in spans.items()} == {"SHORT": Grade.MINOR, "LONG": Grade.DOUBTFUL}
    assert [total.import_kwh for total in found.totals] == pytest.approx([864, 864], abs=1e-6)


async def test_counters_that_fell_are_told(db: Conn) -> None:
    restarted, corrected = await add_device(db, "RESTARTED"), await add_device(db, "CORRECTED")
    await read(db, restarted, START, END, import_=lambda hours: imported(hours) if hours < 30 else 12.0 * (hours - 30))
    await read(db, corrected, START, END, import_=lambda hours: imported(hours) - (600.0 if hours >= 30 else 0.0))
    await price(db, START, END)
    found = await settled(db, "RESTARTED", "CORRECTED")
    minor, serious = told(found, Grade.MINOR), told(found, Grade.SERIOUS)
    assert any("energy_imported_active went from" in text and "taken for a restart" in text for text in minor)
    assert any("went from" in text and "nothing was counted: somebody should look" in text for text in serious)


async def test_check_meters_that_disagree(db: Conn) -> None:
    main, close, far = await add_device(db, "MAIN"), await add_device(db, "CLOSE"), await add_device(db, "FAR")
    await read(db, main, START, END)
    await read(db, close, START, END, import_=lambda hours: 1.004 * imported(hours))
    await read(db, far, START, END, import_=lambda hours: 1.02 * imported(hours))
    await price(db, START, END)
    await group(db, "Settlement-Meters", primary=main, backup=close, monitor=far)
    found = await settled(db, group="Settlement-Meters")
    assert [total.meter.name for total in found.totals] == ["MAIN"], "check meters are not settled"
    (notice,) = found.notices
    assert (notice.meter, notice.grade) == ("FAR", Grade.DOUBTFUL)
    assert "881.28 kWh, and MAIN 864.00 kWh: 17.28 kWh apart (2.00%); 144 half hours differ" in notice.text
    stricter = await settled(db, group="Settlement-Meters", tolerance=0.002)
    assert {notice.meter for notice in stricter.notices} == {"CLOSE", "FAR"}


async def test_missing_prices_leave_energy_out_of_the_costs(db: Conn) -> None:
    await read(db, await add_device(db, "GRID"), START, END)
    await price(db, START + 10 * HALF_HOUR, END)
    found = await settled(db, "GRID", rates=imbalance_tariff())
    by_rate = (await settled(db, "GRID")).totals[0]
    assert sum(by_rate.by_rate[Direction.IMPORT].values()) == pytest.approx(by_rate.import_gbp)
    assert told(found, Grade.SERIOUS) == [
        "10 half hours without imbalance price, the first 2024-01-08 period 1: their energy is not in the costs"
    ]
    assert found.lines[0].import_gbp is None
    assert found.totals[0].import_gbp == pytest.approx((144 - 10) * 6 * 0.08)
    json.dumps(as_mapping(found), allow_nan=False)


async def test_prices_as_they_were_known(db: Conn) -> None:
    await read(db, await add_device(db, "GRID"), START, END)
    first, later = datetime(2024, 2, 1, 6, tzinfo=UTC), datetime(2024, 2, 20, tzinfo=UTC)
    await price(db, START, END, 80.0, known_at=first)
    await price(db, START, END, 90.0, known_at=later)
    newest = await settled(db, "GRID", rates=imbalance_tariff())
    before = await settled(db, "GRID", rates=imbalance_tariff(), as_of=first + timedelta(days=1))
    assert newest.totals[0].import_gbp == pytest.approx(864 * 0.09)
    assert before.totals[0].import_gbp == pytest.approx(864 * 0.08)


async def test_what_may_still_change_is_not_final(db: Conn) -> None:
    meter = await add_device(db, "GRID")
    await read(db, meter, START, END - timedelta(hours=6))
    await price(db, START, END)
    found = await settled(db, "GRID", now=END)
    assert told(found, Grade.DOUBTFUL) == ["12 half hours not final: readings of them may still come"]
    assert any(text.startswith("11 half hours without a figure") for text in told(found, Grade.SERIOUS))


async def test_readings_that_are_not_rolled_up_yet_are_told(db: Conn) -> None:
    meter = await add_device(db, "GRID")
    await read(db, meter, START, END)
    await price(db, START, END)
    await ingest(db, [meter_reading(meter, START + timedelta(minutes=7), energy_imported_active=1000.1)])
    assert await fetch(db, "SELECT 1 FROM flux.rollup_changes")
    found = await settled(db, "GRID")
    assert any("the rollups do not have yet" in text for text in told(found, Grade.SERIOUS))


async def test_a_load_meter_is_paid_by_the_load(db: Conn) -> None:
    for name, kind in (("HOMES", "load"), ("SUN", "generation")):
        await read(db, await add_device(db, name, metadata={"meter_type": kind}), START, END)
    await price(db, START, END)
    found = await settled(db, "HOMES", "SUN")
    homes, sun = found.totals
    assert homes.import_gbp == pytest.approx(-200 * 0.864)
    assert sun.import_gbp is None
    assert sun.export_gbp is None
    assert sun.import_kwh == pytest.approx(864)


async def test_values_that_were_marked_are_told(db: Conn) -> None:
    meter = await add_device(db, "GRID")
    await read(db, meter, START, END)
    await price(db, START, END)
    await db.execute(
        """INSERT INTO flux.reading_marks (device_id, time, metric, reason)
           VALUES (%s, %s, 'energy_imported_active', 'spike')""",
        (meter, START + READ_EVERY),
    )
    await db.execute("CALL flux.refresh_rollups()")
    found = await settled(db, "GRID")
    assert told(found, Grade.DOUBTFUL) == ["1 value of its counters left out (spike): flux quality list"]


async def test_what_cannot_be_settled_is_refused(db: Conn) -> None:
    battery = await add_device(db, "B", "bess", metadata={"capacity_kwh": 10})
    await group(db, "Batteries", primary=battery)
    await group(db, "Empty")
    await db.execute("UPDATE flux.mg_device_registry SET metadata = %s WHERE id = %s", (Jsonb({}), battery))
    with pytest.raises(NotFoundError):
        await settled(db, group="Nobody")
    with pytest.raises(InputError, match="Empty has no member"):
        await settled(db, group="Empty")
    with pytest.raises(InputError, match="no meter to settle"):
        await settled(db, group="Batteries")
    with pytest.raises(InputError, match="--month 2024-13"):
        month_span("2024-13")
