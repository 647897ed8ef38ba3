"""Migrations: from nothing to the newest schema, twice at once, and what a new metric does."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from flux.model import BESS_METRICS, METER_METRICS
from flux.store.migrate import READINGS_TABLES, SQL_TYPES, migrate, status


def columns(dsn: str, table: str) -> list[tuple[str, str]]:
    query = """SELECT column_name, data_type FROM information_schema.columns
               WHERE table_schema = 'flux' AND table_name = %s ORDER BY ordinal_position"""
    with psycopg.connect(dsn) as connection:
        return list(connection.execute(query, (table,)).fetchall())


def test_migrate_from_nothing_and_again(empty_dsn: str) -> None:
    assert status(empty_dsn).version is None
    first = migrate(empty_dsn)
    assert first.version_before is None
    assert first.columns_added == (), "the migrations hold every metric of today; sync adds those of tomorrow"
    second = migrate(empty_dsn)
    assert not second.changed
    assert status(empty_dsn).current


def test_two_at_once_take_turns(empty_dsn: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(migrate, [empty_dsn] * 4))
    assert sorted(r.version_before is None for r in reports) == [False, False, False, True]
    assert status(empty_dsn).current


@pytest.mark.parametrize("table", READINGS_TABLES)
def test_readings_columns_are_the_model(dsn: str, table: str) -> None:
    metrics = {"mg_meter_readings": METER_METRICS, "mg_bess_readings": BESS_METRICS}[table]
    expected = [
        ("time", "timestamp with time zone"),
        ("device_id", "uuid"),
        ("id", "uuid"),
        ("created_at", "timestamp with time zone"),
        *((metric.name, SQL_TYPES[metric.kind]) for metric in metrics),
    ]
    assert columns(dsn, table) == expected
