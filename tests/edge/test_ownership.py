"""Who may command: stops, the lease, other masters, a changed plan. Real Modbus, real files, real PostgreSQL."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.edge.both import MOSTLY_SQL, links
from tests.edge.conftest import PLAN
from tests.edge.plant import Plant, Switch, running_plant

from flux.devices import template as templates
from flux.devices.codec import encode
from flux.devices.simulator import SimulatedSite
from flux.devices.template import builtin_template
from flux.edge.runtime import EdgeRuntime
from flux.edge.stopping import SiteControl, SqlOrders, resume_site, stop_site
from flux.edge.ticks import system_clock
from flux.model import UnavailableError
from flux.store import ownership

BESS = "WLCE-BESS-01"
WAIT = timedelta(seconds=10)
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


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


def here(plant: Plant) -> SiteControl:
    """The command line on the edge's host while the platform is away."""
    return SiteControl("WLCE", plant.home / "edge" / "WLCE", SqlOrders("WLCE", lambda: NOWHERE))


def at_platform(plant: Plant) -> SiteControl:
    """The command line on the platform's host: no edge has its state there."""
    return SiteControl("WLCE", plant.home / "elsewhere", SqlOrders("WLCE", lambda: plant.dsn))


async def controls(plant: Plant) -> None:
    await plant.until(lambda: abs(plant.battery_kw - 40) < 0.5)


async def rests(plant: Plant) -> None:
    await plant.until(lambda: abs(plant.battery_kw) < 0.1)


def alarms(edge: EdgeRuntime) -> dict[str, str]:
    return {alarm.key: alarm.text for alarm in edge.alarms.active}


def status(edge: EdgeRuntime) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(edge.status_file.read_text())
    return found


async def test_a_stop_here_works_while_the_platform_is_away_and_outlives_a_restart(plant: Plant) -> None:
    async with plant.edge() as edge:
        await controls(plant)
        plant.link.away = True
        began = system_clock()
        words = await stop_site(here(plant), "anna", "smoke", WAIT)
        assert system_clock() - began < timedelta(seconds=2)
        assert f"{BESS} acknowledged 0 kW" in words
        assert "on this host" in words
        await rests(plant)
        assert "the site was stopped by anna: smoke" in alarms(edge)["stopped"]
        assert status(edge)["controller"]["stop_acknowledged"] is True
    async with plant.edge() as edge:
        await plant.until(lambda: edge.site.controller is not None and edge.site.controller.cycles >= 5)
        assert abs(plant.battery_kw) < 0.1
        assert edge.site.controller is not None
        assert edge.site.controller.last is not None
        assert "stopped by anna" in edge.site.controller.last.reason
        with pytest.raises(UnavailableError, match="not reached"):
            await resume_site(SiteControl("WLCE", plant.home / "elsewhere", SqlOrders("WLCE", lambda: NOWHERE)), "anna")
        words = await resume_site(here(plant), "anna")
        assert "the stop on this host ended" in words
        await controls(plant)
        assert "stopped" not in alarms(edge)


async def test_a_stop_at_the_platform_reaches_the_edge_and_says_so(plant: Plant) -> None:
    async with plant.edge() as edge:
        await controls(plant)
        words = await stop_site(at_platform(plant), "ben", "", WAIT)
        assert "its edge says that every battery acknowledged 0 kW" in words
        await rests(plant)  # it was told; its power follows with its ramp
        assert "stopped by ben" in alarms(edge)["stopped"]
        stop = await ownership.stop_in_force(plant.db, "WLCE")
        assert stop is not None
        assert stop.acknowledged_at is not None
    plant.link.away = True
    async with plant.edge() as edge:  # the platform's stop is remembered without the platform
        await plant.until(lambda: edge.site.controller is not None and edge.site.controller.cycles >= 5)
        assert abs(plant.battery_kw) < 0.1
        plant.link.away = False
        assert "the platform's stop ended" in await resume_site(at_platform(plant), "ben")
        await controls(plant)


async def test_either_stop_is_enough(plant: Plant) -> None:
    async with plant.edge() as edge:
        await controls(plant)
        both = SiteControl("WLCE", plant.home / "edge" / "WLCE", SqlOrders("WLCE", lambda: plant.dsn))
        assert "on this host and at the platform" in await stop_site(both, "anna", "", WAIT)
        (plant.home / "edge" / "WLCE" / "stop.json").unlink()
        seen = edge.site.controller.cycles if edge.site.controller else 0
        await plant.until(lambda: edge.site.controller is not None and edge.site.controller.cycles >= seen + 4)
        assert abs(plant.battery_kw) < 0.1
        await resume_site(both, "anna")
        await controls(plant)


async def test_a_stop_that_no_edge_carries_out_says_so_and_waits_for_it(plant: Plant) -> None:
    async with plant.edge():
        await controls(plant)
    await rests(plant)
    with pytest.raises(UnavailableError, match="no edge of it runs on this host"):
        await stop_site(here(plant), "anna", "", timedelta(seconds=0.3))
    async with plant.edge() as edge:
        await plant.until(lambda: edge.site.controller is not None and edge.site.controller.cycles >= 5)
        assert abs(plant.battery_kw) < 0.1


async def test_a_stop_that_reaches_nobody_says_so(plant: Plant) -> None:
    with pytest.raises(UnavailableError, match="site WLCE was not reached: no edge has its state"):
        await stop_site(
            SiteControl("WLCE", plant.home / "elsewhere", SqlOrders("WLCE", lambda: NOWHERE)), "anna", "", WAIT
        )


async def test_a_second_edge_records_only(plant: Plant, tmp_path: Path) -> None:
    other_home = tmp_path / "other host"
    other_home.mkdir()
    async with plant.edge() as first:
        await controls(plant)
        async with plant.edge(home=other_home) as second:
            await plant.until(lambda: second.recorder.recorded >= 5)
            assert "the control lease of the site is with another edge" in alarms(second)["control_lease"]
            assert second.site.controller is not None
            assert second.site.controller.batteries[0].last_command is None
            await plant.until(lambda: bool((status(second)["controller"] or {}).get("withheld")))
            control = SiteControl("WLCE", other_home / "edge" / "WLCE", SqlOrders("WLCE", lambda: NOWHERE))
            with pytest.raises(UnavailableError, match="may not command"):
                await stop_site(control, "anna", "", timedelta(seconds=2.5))
        assert abs(plant.battery_kw - 40) < 0.5  # the second one ended without a word to the battery
        assert "control_lease" not in alarms(first)


async def test_the_holder_goes_on_through_an_outage_and_a_restart_within_it(plant: Plant) -> None:
    async with plant.edge():
        await controls(plant)
        plant.link.away = True
    await rests(plant)
    async with plant.edge() as edge:
        await controls(plant)
        assert "control_lease" not in alarms(edge)


async def test_a_lease_that_was_given_back_goes_to_the_next(plant: Plant, tmp_path: Path) -> None:
    async with plant.edge():
        await controls(plant)
    other_home = tmp_path / "other host"
    other_home.mkdir()
    async with plant.edge(home=other_home) as edge:
        await controls(plant)
        assert "control_lease" not in alarms(edge)
    rows = await plant.rows("SELECT token FROM flux.control_leases")
    assert rows == [(2,)]


async def test_a_holder_that_was_cut_off_alone_is_not_joined_and_gives_way_on_its_return(
    plant: Plant, tmp_path: Path
) -> None:
    """Its lease has run out and another edge has it: never two masters, and nobody has to come."""
    for folder in (plant.home, other_home := tmp_path / "other host"):
        impatient_template(folder)
    plan = "templates_dir: templates\n" + PLAN
    cut_off = Switch(plant.make_link("WLCE"))
    async with plant.edge(plan, link=cut_off) as first:
        await controls(plant)
        cut_off.away = True
        await plant.rows("UPDATE flux.control_leases SET expires_at = to_timestamp(0) RETURNING 1")
        async with plant.edge(plan, home=other_home, link=Switch(plant.make_link("WLCE"))) as second:
            await plant.until(lambda: f"other_master:{BESS}" in alarms(second))
            assert second.site.controller is not None
            (battery,) = second.site.controller.batteries
            assert battery.last_command is None, "not a word to a battery that another edge commands"
            assert "is still at 40.0 kW by the command of another edge" in str(battery.waits)
            assert abs(plant.battery_kw - 40) < 0.5, "the first goes on, as through any outage"
            cut_off.away = False
            await plant.until(lambda: "is with another edge" in alarms(first).get("control_lease", ""))
            await plant.until(lambda: battery.last_command is not None)
            await controls(plant)
            assert f"other_master:{BESS}" not in alarms(second)
            assert first.site.controller is not None
            assert "is with another edge" in str(first.site.controller.withheld)


def impatient_template(folder: Path) -> None:
    """The package's own with a command timeout of 2 s."""
    text = (Path(templates.__file__).parent / "templates" / "tesla_powerpack.yaml").read_text()
    (folder / "templates").mkdir(parents=True)
    (folder / "templates" / "tesla_powerpack.yaml").write_text(text.replace("value: 30}", "value: 2}"))


async def test_an_edge_without_any_lease_commands_nothing_while_the_platform_is_away(plant: Plant) -> None:
    async with plant.edge():
        await controls(plant)
    (plant.home / "edge" / "WLCE" / "lease.json").unlink()
    await rests(plant)
    plant.link.away = True
    async with plant.edge() as edge:
        await plant.until(lambda: edge.site.controller is not None and edge.site.controller.cycles >= 5)
        assert abs(plant.battery_kw) < 0.1
        assert edge.site.controller is not None
        assert "has not given this edge the control lease" in str(edge.site.controller.withheld)


async def test_a_changed_plan_is_taken_up_without_a_gap(plant: Plant) -> None:
    async with plant.edge() as edge:
        await controls(plant)
        before = edge.site.controller
        assert before is not None
        lowest: list[float] = []
        plant.write_site_file(PLAN.replace("discharge_limit_kw: 105", "discharge_limit_kw: 25"))

        def limited() -> bool:
            lowest.append(plant.battery_kw)
            return abs(plant.battery_kw - 25) < 0.5

        await plant.until(limited)
        assert min(lowest) > 24.5
        after = edge.site.controller
        assert after is not None
        assert after is not before
        assert after.cycles > before.cycles > 0
        assert alarms(edge) == {}


async def test_a_plan_that_is_not_valid_is_refused_with_its_line_and_the_old_goes_on(plant: Plant) -> None:
    async with plant.edge() as edge:
        await controls(plant)
        plant.write_site_file(PLAN.replace("discharge_limit_kw", "discharge_limit_kv"))
        await plant.until(lambda: "site_file" in alarms(edge))
        assert "site.yaml:10: controller.battery" in alarms(edge)["site_file"]
        assert "discharge_limit_kv" in alarms(edge)["site_file"]
        plant.write_site_file(PLAN.replace("[WLCE-BESS-01]", "[WLCE-BESS-09]"))
        await plant.until(lambda: "WLCE-BESS-09" in alarms(edge)["site_file"])
        assert "site.yaml:6: controller.bess[0]" in alarms(edge)["site_file"]
        await asyncio.sleep(1)
        assert abs(plant.battery_kw - 40) < 0.5
        plant.write_site_file()
        await plant.until(lambda: "site_file" not in alarms(edge))
        assert abs(plant.battery_kw - 40) < 0.5


async def test_a_plan_that_is_taken_away_leaves_the_battery_at_rest(plant: Plant) -> None:
    async with plant.edge() as edge:
        await controls(plant)
        (plant.home / "site.yaml").write_text("site: WLCE\n")
        await rests(plant)
        assert edge.site.controller is None
        plant.write_site_file()
        await controls(plant)
        assert "site_file" not in alarms(edge)


async def test_another_master_stops_control_until_resume(
    make_site: Callable[..., SimulatedSite], dsn: str, db: AsyncConnection[Any], tmp_path: Path
) -> None:
    config = make_site(load_kw=40, port=0).config
    bess = config.devices[0].model_copy(update={"template": "powerpack_bess"})
    site = SimulatedSite(config.model_copy(update={"devices": (bess, *config.devices[1:])}), system_clock())
    plan = PLAN.replace("  interval: 4s\n", "  interval: 4s\n  without_timeout: accepted\n")
    words = encode(builtin_template("powerpack_bess").register("target_power"), -50)
    async with running_plant(site, dsn, db, tmp_path) as plant:
        async with plant.edge(plan) as edge:
            await controls(plant)
            site.device(BESS).bank.write(2008, words)
            await plant.until(lambda: f"other_master:{BESS}" in alarms(edge))
            await plant.until(lambda: (tmp_path / "edge" / "WLCE" / "other_master.json").exists())
            await asyncio.sleep(1)
            assert plant.battery_kw == pytest.approx(-50, abs=0.1)
        assert plant.battery_kw == pytest.approx(-50, abs=0.1)  # an edge that ends sends it nothing either
        async with plant.edge(plan) as edge:
            await plant.until(lambda: edge.site.controller is not None and edge.site.controller.cycles >= 5)
            assert plant.battery_kw == pytest.approx(-50, abs=0.1)
            assert f"other_master:{BESS}" in alarms(edge)
            await resume_site(at_platform(plant), "anna")
            await controls(plant)
            assert f"other_master:{BESS}" not in alarms(edge)
