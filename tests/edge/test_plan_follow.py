"""What a running edge takes up: a pushed plan, shadow plans, the recording section. Real Modbus, real PostgreSQL."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.edge.both import MOSTLY_SQL, links
from tests.edge.conftest import PLAN, plan_of
from tests.edge.plant import FAST, Plant, running_plant

from flux.config import YamlDocument
from flux.control.ledger import PlanText, plan_text
from flux.control.plan import parse_plan, plan_hash
from flux.devices.simulator import SimulatedSite
from flux.edge.runtime import EdgeRuntime
from flux.edge.ticks import system_clock
from flux.store.site_plans import push_plan, withdraw_plan

NARROW = PLAN.replace("discharge_limit_kw: 105", "discharge_limit_kw: 25")
SHADOWS = "shadow_plans: {calm: calm.yaml}\n"


def fast(plan: str) -> str:
    for old, new in FAST.items():
        plan = plan.replace(old, new)
    return plan


@pytest.fixture(params=MOSTLY_SQL)
async def plant(
    request: pytest.FixtureRequest,
    make_site: Callable[..., SimulatedSite],
    dsn: str,
    db: AsyncConnection[Any],
    tmp_path: Path,
) -> AsyncIterator[Plant]:
    site = make_site(load_kw=40, start=system_clock(), port=0)
    with links(request.param, dsn) as make:
        async with running_plant(site, dsn, db, tmp_path, make) as plant:
            yield plant


def alarms(edge: EdgeRuntime) -> dict[str, str]:
    return {alarm.key: alarm.text for alarm in edge.alarms.active}


def overlapping() -> PlanText:
    twice = 'periods: [{start: "10:00", end: "12:00"}, {start: "11:00", end: "12:00"}]'
    text = fast(PLAN).replace('periods: [{days: all, start: "00:00", end: "24:00"}]', twice, 1)
    return plan_text(parse_plan(YamlDocument(text, "site.yaml"), allow_overlaps=True))


def plan_in_status(edge: EdgeRuntime) -> tuple[str, str | None] | None:
    """The hash of the plan that controls, and who pushed it, as `status.json` has them."""
    controller = json.loads(edge.status_file.read_text())["controller"]
    return controller and (controller["plan"]["hash"], controller["plan"]["pushed_by"])


async def discharges(plant: Plant, power_kw: float) -> None:
    await plant.until(lambda: abs(plant.battery_kw - power_kw) < 0.5)


async def test_a_pushed_plan_goes_before_the_file_also_without_the_platform_until_it_is_withdrawn(plant: Plant) -> None:
    pushed = plan_text(plan_of(fast(NARROW)))
    async with plant.edge():
        await discharges(plant, 40)
        assert await push_plan(plant.db, "WLCE", pushed, actor="anna")
        assert not await push_plan(plant.db, "WLCE", pushed, actor="anna")
        await discharges(plant, 25)
    plant.link.away = True
    async with plant.edge() as edge:
        await discharges(plant, 25)
        await plant.until(lambda: plan_in_status(edge) == (pushed.hash, "anna"))
        assert edge.site.controller is not None
        assert edge.site.controller.plan.battery.discharge_limit_kw == 25
        plant.link.away = False
        assert await withdraw_plan(plant.db, "WLCE")
        await plant.until(lambda: abs(plant.battery_kw - 40) < 0.5, 20)
        await plant.until(lambda: plan_in_status(edge) == (plan_hash(plan_of(fast(PLAN))), None))
        assert not await withdraw_plan(plant.db, "WLCE")


async def test_a_pushed_plan_that_does_not_fit_is_told_and_the_plan_as_it_was_goes_on(plant: Plant) -> None:
    other = plan_text(plan_of(fast(NARROW).replace("[WLCE-BESS-01]", "[WLCE-BESS-09]")))
    async with plant.edge() as edge:
        await discharges(plant, 40)
        await push_plan(plant.db, "WLCE", other, actor="anna")
        await plant.until(lambda: "pushed_plan" in alarms(edge))
        told = alarms(edge)["pushed_plan"]
        assert told.startswith(f"the plan {other.hash} that anna pushed: bess.0: 'WLCE-BESS-09' is no device of site")
        assert told.endswith("; the plan as it was goes on")
        assert abs(plant.battery_kw - 40) < 0.5
        await withdraw_plan(plant.db, "WLCE")
        await plant.until(lambda: "pushed_plan" not in alarms(edge))


async def test_a_pushed_plan_that_this_version_cannot_read_is_told(plant: Plant) -> None:
    async with plant.edge() as edge:
        await discharges(plant, 40)
        await plant.db.execute(
            "INSERT INTO flux.site_plans (site, hash, body, actor) VALUES ('WLCE', 'abc', '{\"bess\": []}', 'anna')"
        )
        await plant.until(lambda: "pushed_plan" in alarms(edge))
        assert "the plan abc that anna pushed: site_meter: Field required" in alarms(edge)["pushed_plan"]
        await push_plan(plant.db, "WLCE", overlapping(), actor="anna")  # `flux control push` would have refused it
        await plant.until(lambda: "modes.0.periods.1: 11:00–12:00 overlaps" in alarms(edge)["pushed_plan"])
        assert abs(plant.battery_kw - 40) < 0.5


async def test_shadow_plans_are_read_again_when_their_files_change(plant: Plant) -> None:
    shadow = plant.home / "calm.yaml"
    shadow.write_text(fast(NARROW))
    async with plant.edge(PLAN + SHADOWS) as edge:

        async def limits_of_shadow() -> list[float]:
            rows = await plant.rows(
                "SELECT DISTINCT target_power_kw FROM flux.control_decisions WHERE plan = 'calm' ORDER BY 1"
            )
            return [power for (power,) in rows]

        async def decided(power_kw: float) -> bool:
            return power_kw in await limits_of_shadow()

        await plant.until(lambda: decided(25.0))
        shadow.write_text(fast(NARROW).replace("discharge_limit_kw", "discharge_limit_kv"))
        await plant.until(lambda: "site_file" in alarms(edge))
        assert f"{shadow}:8: controller.battery.discharge_limit_kv: unknown key" in alarms(edge)["site_file"]
        shadow.write_text(fast(NARROW).replace("discharge_limit_kw: 25", "discharge_limit_kw: 10"))
        await plant.until(lambda: decided(10.0))
        assert "site_file" not in alarms(edge)
        assert abs(plant.battery_kw - 40) < 0.5  # the live plan never noticed


async def test_another_recording_interval_is_taken_up_while_it_runs(plant: Plant) -> None:
    async with plant.edge(recording="1h") as edge:
        await discharges(plant, 40)
        assert edge.recorder.recorded == 0
        plant.write_site_file(recording="1s")
        await plant.until(lambda: edge.recorder.recorded >= 10)
        assert alarms(edge) == {}
        path = plant.home / "site.yaml"
        path.write_text(path.read_text().replace("polling_interval: 1s", "polling_interval: 1s, largest_batch: 7"))
        await plant.until(lambda: edge.uploader.batch_size <= 7)
        path.write_text(path.read_text() + "templates_dir: mine\n")
        (plant.home / "mine").mkdir()
        await plant.until(lambda: "site_file" in alarms(edge))
        assert "templates_dir: has changed; start the edge again for it" in alarms(edge)["site_file"]
