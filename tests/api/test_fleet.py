"""The fleet of the API's tests has what they rely on."""

from typing import Any

from psycopg import AsyncConnection
from tests.api.fleet import CANARY, add_fleet
from tests.support import fetch

TABLES = (
    "mg_meter_readings",
    "mg_bess_readings",
    "mg_meter_readings_1h",
    "mg_bess_readings_5m",
    "device_health",
    "device_groups",
    "device_group_members",
    "device_events",
    "market_data",
    "control_decisions",
)


async def test_the_fleet_has_rows_of_both_sites_in_every_table(db: AsyncConnection[Any]) -> None:
    await add_fleet(db)
    for table in TABLES:
        ((rows,),) = await fetch(db, f"SELECT count(*) FROM flux.{table}")
        assert rows > 1, table
    ((canaries,),) = await fetch(
        db, f"SELECT count(*) FROM flux.mg_device_registry d WHERE d::text LIKE '%{CANARY}%' AND site = 'HMCE'"
    )
    assert canaries == 2
