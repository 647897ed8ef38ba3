"""The stop file and the lease on disk: what is kept, and what happens to files that are damaged."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from tests.edge.fakes import START, FixedClock, MemoryPlatform, run_virtual

from flux.edge.alarms import Alarms
from flux.edge.learned import LearnedStore
from flux.edge.lease import LEASE_FILE, ControlLease
from flux.edge.link import LeaseAnswer, RegistrySnapshot
from flux.edge.stops import OtherMasterFile, StopFile
from flux.edge.switch import StopSwitch
from flux.model import NotFoundError, UnavailableError
from flux.registry.for_edges import StopOrder

ORDER = StopOrder("anna@site", "smoke", START)


def test_a_stop_is_there_until_it_is_cleared(tmp_path: Path) -> None:
    file = StopFile(tmp_path)
    assert file.read() is None
    file.set(ORDER)
    assert StopFile(tmp_path).read() == ORDER
    file.set(StopOrder("ben", "", START))
    assert file.read() == ORDER  # the first one counts
    assert file.clear()
    assert file.read() is None
    assert not file.clear()


@pytest.mark.parametrize("text", ["", "not json", "[]", "{}", '{"actor": 1}', "\x00"])
def test_a_stop_file_with_anything_in_it_stops(tmp_path: Path, text: str) -> None:
    (tmp_path / "stop.json").write_text(text)
    order = StopFile(tmp_path).read()
    assert order is not None
    assert "stop.json" in str(order)


def test_a_stop_file_that_is_no_text_stops(tmp_path: Path) -> None:
    (tmp_path / "stop.json").write_bytes(b"\xff\xfe\x00")
    assert StopFile(tmp_path).read() is not None


def test_a_folder_by_the_name_of_the_stop_file_stops(tmp_path: Path) -> None:
    (tmp_path / "stop.json").mkdir()
    assert StopFile(tmp_path).read() is not None


def test_the_platforms_stop_is_kept_with_the_registry(tmp_path: Path) -> None:
    store = LearnedStore(tmp_path / "learned.sqlite", FixedClock())
    snapshot = RegistrySnapshot(stop=ORDER, resumed_at=START - timedelta(days=1))
    store.save_registry(snapshot)
    assert store.load_registry() == snapshot


class Switched:
    """A switch over files in a folder, with how often it told of a change."""

    def __init__(self, folder: Path, platform: MemoryPlatform) -> None:
        self.changes = 0
        self.alarms = Alarms(FixedClock())
        self.acknowledged = False

        async def changed() -> None:
            self.changes += 1

        self.switch = StopSwitch(
            folder,
            platform,
            self.alarms,
            batteries=tuple,
            changed=changed,
            acknowledged=lambda: self.acknowledged,
        )


async def test_each_change_is_told_once(tmp_path: Path) -> None:
    one = Switched(tmp_path, MemoryPlatform())
    one.switch.load()
    for _ in range(3):
        await one.switch.look()
    assert one.changes == 0
    StopFile(tmp_path).set(ORDER)
    for _ in range(3):
        await one.switch.look()
    assert one.changes == 1
    assert [alarm.key for alarm in one.alarms.active] == ["stopped"]
    one.switch.heard(RegistrySnapshot(stop=StopOrder("ben", "", START)))
    StopFile(tmp_path).clear()
    await one.switch.look()
    assert one.switch.reason is not None
    assert "ben" in one.switch.reason
    one.switch.heard(RegistrySnapshot())
    await one.switch.look()
    assert one.switch.reason is None
    assert one.alarms.active == ()


def test_a_platform_that_is_away_hears_of_the_acknowledgement_later(tmp_path: Path) -> None:
    async def story() -> None:
        platform = MemoryPlatform()
        one = Switched(tmp_path, platform)
        one.switch.heard(RegistrySnapshot(stop=ORDER))
        task = asyncio.create_task(one.switch.report())
        await asyncio.sleep(60)
        assert platform.stops_acknowledged == 0  # nobody has acknowledged yet
        one.acknowledged, platform.away = True, True
        await asyncio.sleep(60)
        assert platform.stops_acknowledged == 0
        platform.away = False
        await asyncio.sleep(60)
        assert platform.stops_acknowledged == 1
        task.cancel()

    run_virtual(story())


def test_other_masters_are_remembered(tmp_path: Path) -> None:
    file = OtherMasterFile(tmp_path)
    assert file.read() == {}
    file.write({"WLCE-BESS-01": "it shows a target of 50 kW"})
    assert OtherMasterFile(tmp_path).read() == {"WLCE-BESS-01": "it shows a target of 50 kW"}
    assert file.clear()
    assert not file.exists


def lease_of(folder: Path, platform: MemoryPlatform) -> tuple[ControlLease, Alarms]:
    folder.mkdir(exist_ok=True)
    alarms = Alarms(FixedClock())
    return ControlLease(platform, folder, alarms), alarms


async def test_the_first_has_the_lease_and_the_second_is_refused(tmp_path: Path) -> None:
    platform = MemoryPlatform()
    first, _ = lease_of(tmp_path / "a", platform)
    second, alarms = lease_of(tmp_path / "b", platform)
    await first.ask()
    await second.ask()
    assert first.refusal is None
    assert second.refusal is not None
    assert [alarm.key for alarm in alarms.active] == ["control_lease"]
    await first.release()
    await second.ask()
    assert second.refusal is None
    assert alarms.active == ()
    await first.ask()
    assert first.refusal is not None  # it learns of its successor and falls silent


async def test_an_edge_is_the_same_holder_after_a_restart(tmp_path: Path) -> None:
    platform = MemoryPlatform()
    first, _ = lease_of(tmp_path / "a", platform)
    await first.ask()
    again, _ = lease_of(tmp_path / "a", platform)
    await again.ask()
    assert again.refusal is None
    platform.away = True
    third, _ = lease_of(tmp_path / "a", platform)
    third.load()
    with pytest.raises(UnavailableError):
        await third.ask()
    assert third.refusal is None  # what the platform said last counts


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"holder": "x", "granted": "yes"}'])
def test_a_damaged_lease_is_no_lease(tmp_path: Path, text: str) -> None:
    (tmp_path / LEASE_FILE).write_text(text)
    lease, _ = lease_of(tmp_path, MemoryPlatform())
    lease.load()
    assert lease.refusal is not None


async def test_a_lost_answer_leaves_the_lease_with_the_edge_that_asked_also_after_a_restart(tmp_path: Path) -> None:
    class Losing(MemoryPlatform):
        async def take_lease(self, holder: str, host: str, lasts: timedelta) -> LeaseAnswer:
            await super().take_lease(holder, host, lasts)
            raise UnavailableError("the answer was lost")

    losing, platform = Losing(), MemoryPlatform()
    first, _ = lease_of(tmp_path, losing)
    with pytest.raises(UnavailableError):
        await first.ask()
    platform.lease_of = losing.lease_of
    again, _ = lease_of(tmp_path, platform)
    await again.ask()
    assert again.refusal is None


async def test_a_site_that_is_said_not_to_be_there_ends_no_lease(tmp_path: Path) -> None:
    class Lost(MemoryPlatform):
        async def take_lease(self, *_arguments: object) -> LeaseAnswer:
            raise NotFoundError("there is no site 'WLCE'")

    never, _ = lease_of(tmp_path / "b", Lost())
    await never.ask()
    assert never.refusal == "there is no site 'WLCE'"
    first, _ = lease_of(tmp_path / "a", MemoryPlatform())
    await first.ask()
    later, alarms = lease_of(tmp_path / "a", Lost())
    await later.ask()
    assert later.refusal is None
    assert [(alarm.key, alarm.text) for alarm in alarms.active] == [("control_lease", "there is no site 'WLCE'")]
