"""CSV files of any mapping, the real ones included."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from flux.errors import InputError
from flux.market.csvfile import Mapping, read_csv
from flux.model import MarketDataType

REAL = next(
    (path for folder in Path(__file__).parents if (path := folder / "shared" / "data" / "gb_2024_01").is_dir()), None
)
LONDON = ZoneInfo("Europe/London")
PRICE = Mapping(type=MarketDataType.IMBALANCE_PRICE, unit="£/MWh")


def written(folder: Path, text: str) -> Path:
    path = folder / "market.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_usual_columns_are_found(tmp_path: Path) -> None:
    path = written(tmp_path, "\ufefftime,other,price\n2026-01-15T12:00Z,x,50\n2026-01-15T13:30+01:00,x,\n")
    (value,) = read_csv(path, PRICE)
    assert (value.time, value.value, value.known_at) == (datetime(2026, 1, 15, 12, tzinfo=UTC), 50.0, None)


def test_units_and_delay(tmp_path: Path) -> None:
    path = written(tmp_path, "when,p\n2026-01-15T12:00Z,9.5\n")
    mapping = Mapping(
        type=3, unit="£/MWh", time="when", value="p", value_unit="p/kWh", delay=timedelta(minutes=20), site="WLCE"
    )
    (value,) = read_csv(path, mapping)
    assert (value.value, value.site) == (95.0, "WLCE")
    assert value.known_at == datetime(2026, 1, 15, 12, 20, tzinfo=UTC)


def test_known_at_from_a_column(tmp_path: Path) -> None:
    path = written(tmp_path, "time,value,published\n2026-01-15 12:00,1,2026-01-15 12:10\n2026-01-15 12:30,1,\n")
    mapping = Mapping(type=3, unit="£/MWh", zone=LONDON, known_at="published", delay=timedelta(hours=1))
    assert [value.known_at for value in read_csv(path, mapping)] == [
        datetime(2026, 1, 15, 12, 10, tzinfo=UTC),
        datetime(2026, 1, 15, 13, 30, tzinfo=UTC),
    ]


def test_the_hour_that_comes_twice(tmp_path: Path) -> None:
    local = ["00:30", "01:00", "01:30", "01:00", "01:30", "02:00"]
    path = written(tmp_path, "time,value\n" + "".join(f"2026-10-25 {time},1\n" for time in local))
    times = [value.time for value in read_csv(path, Mapping(type=3, unit="£/MWh", zone=LONDON))]
    midnight = datetime(2026, 10, 24, 23, tzinfo=UTC)
    assert times == [midnight + timedelta(minutes=30 * n) for n in range(1, 7)]


def test_settlement_periods_in_place_of_times(tmp_path: Path) -> None:
    path = written(tmp_path, "date,sp,value\n2026-10-25,50,1\n2026-03-29,3,2\n")
    mapping = Mapping(type=3, unit="£/MWh", day="date", period="sp")
    assert [value.time for value in read_csv(path, mapping)] == [
        datetime(2026, 10, 25, 23, 30, tzinfo=UTC),
        datetime(2026, 3, 29, 1, tzinfo=UTC),
    ]


@pytest.mark.parametrize(
    ("text", "mapping", "told"),
    [
        ("time,value\n2026-01-15 12:00,1\n", PRICE, ":2: time: '2026-01-15 12:00' has no offset; say its zone"),
        ("time,value\n2026-01-15T12:00Z,1\nx,1\n", PRICE, ":3: time: 'x' is not a time"),
        ("time,value\n2026-01-15T12:00Z,1.2.3\n", PRICE, ":2: value: '1.2.3' is not a number"),
        ("time,value\n2026-01-15T12:00Z,nan\n", PRICE, ":2: value: 'nan' is not a number"),
        ("time,x\n2026-01-15T12:00Z,1\n", PRICE, "there are time, x: say which with --value"),
        ("", PRICE, "no column value or price"),
        ("when,value\n", PRICE, "say which with --time"),
        ("time,value\n", Mapping(type=3, unit="£/MWh", value_unit="MWh"), "does not convert to £/MWh; known are p/"),
        ("time,value\n", Mapping(type=3, unit="£/MWh", known_at="published"), "no column 'published'"),
        ("time,value\n2026-03-29 01:30,1\n", Mapping(type=3, unit="£/MWh", zone=LONDON), "01:30 does not exist"),
        ("d,n,value\n2026-03-29,47,1\n", Mapping(type=3, unit="x", day="d", period="n"), ":2: .*47 is outside 1..46"),
        ("d,n,value\n2026-03-29,,1\n", Mapping(type=3, unit="x", day="d", period="n"), ":2: settlement period"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, text: str, mapping: Mapping, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_csv(written(tmp_path, text), mapping)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_csv(tmp_path / "no.csv", PRICE)
    (tmp_path / "latin.csv").write_bytes(b"time,value\n\xa3,1\n")
    with pytest.raises(InputError, match="not UTF-8"):
        read_csv(tmp_path / "latin.csv", PRICE)


@pytest.mark.skipif(REAL is None, reason="the shared data gb_2024_01 is not here")
def test_the_real_month() -> None:
    assert REAL is not None
    prices = read_csv(
        REAL / "imbalance_price.csv",
        Mapping(type=3, unit="£/MWh", value_unit="p/kWh", time="spClockTime", delay=timedelta(minutes=20)),
    )
    assert len(prices) == 31 * 48
    assert prices[0].value == pytest.approx(90.0)
    assert [min(p.value for p in prices), max(p.value for p in prices)] == pytest.approx([-74, 150], abs=1)
    volumes = read_csv(REAL / "imbalance_volume.csv", Mapping(type=1, unit="MW", value_unit="MWh/half hour"))
    assert volumes[0].value == pytest.approx(2 * 103.3515)
    assert {value.time for value in volumes} == {price.time for price in prices}
