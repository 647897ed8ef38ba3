"""Plans that are refused: each with file, line, field, value and bound; and plans that are taken."""

import pickle
import re
from pathlib import Path

import pytest
from tests.control.kit import HEAD, SAMPLE, plan_of, run, sample_plan

from flux.config import YamlDocument
from flux.control.modes import MODES
from flux.control.modes.base import ModeConfig
from flux.control.plan import ControllerPlan, load_plan, parse_plan, plan_hash
from flux.errors import InputError


def refusal(old: str, new: str, allow_overlaps: bool = False) -> str:
    assert old in SAMPLE, "the sample no longer has what this test changes"
    with pytest.raises(InputError) as caught:
        parse_plan(YamlDocument(SAMPLE.replace(old, new, 1), "site.yaml"), allow_overlaps=allow_overlaps)
    return str(caught.value)


def line_of(text: str, key: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), start=1) if key in line)


@pytest.mark.parametrize(
    ("old", "new", "key", "message"),
    [
        # misspelt keys
        ("interval: 4s", "intervall: 4s", "controller.intervall", "unknown key; did you mean 'interval'?"),
        ("charge_efficiency", "charge_eficiency", "charge_eficiency", "did you mean 'charge_efficiency'?"),
        ("shift_long", "shift_lang", "shift_lang", "unknown key; did you mean 'shift_long'?"),
        ("cutoff: 20m}", "cutof: 20m}", "cutof", "did you mean 'cutoff'?"),
        ("    import: [", "    imports: [", "controller.rates.imports", "did you mean 'import'?"),
        ("mode: niv_chase", "mode: niv_chaise", "controller.modes[3]", "niv_chase"),
        ("  site_meter: WLCE-GRID-METER\n", "", "controller.site_meter", "is missing"),
        # the battery
        ("charge_efficiency: 0.9", "charge_efficiency: 0", "charge_efficiency", "0: input should be greater than 0"),
        (
            "charge_efficiency: 0.9",
            "charge_efficiency: 1.01",
            "charge_efficiency",
            "1.01: input should be less than or",
        ),
        ("charge_efficiency: 0.9", "charge_efficiency: .nan", "charge_efficiency", "not a number"),
        ("charge_efficiency: 0.9", "charge_efficiency: true", "charge_efficiency", "True: not a number"),
        (" charge_limit_kw: 100", " charge_limit_kw: -100", "battery.charge_limit_kw", "-100: input should be greater"),
        ("discharge_limit_kw: 105", "discharge_limit_kw: .inf", "discharge_limit_kw", "inf: input should be less than"),
        ("soe_max_kwh: 475", "soe_max_kwh: 501", "soe_max_kwh", "501: must be at most capacity_kwh = 500"),
        ("soe_min_kwh: 25", "soe_min_kwh: 500", "soe_min_kwh", "500: must be below capacity_kwh = 500"),
        ("soe_min_kwh: 25", "soe_min_kwh: -1", "soe_min_kwh", "-1: input should be greater than or equal to 0"),
        ("soe_max_kwh: 475", "soe_max_kwh: 25", "soe_max_kwh", "25: must be above soe_min_kwh = 25"),
        ("capacity_kwh: 500", "capacity_kwh: 0", "capacity_kwh", "0: input should be greater than 0"),
        # the site
        ("import_limit_kw: 220", "import_limit_kw: -220", "site.import_limit_kw", "-220: input should be greater"),
        ("export_limit_kw: 475", "export_limit_kw: none", "site.export_limit_kw", "'none': not a number"),
        # times
        (
            'start: "13:30", end: "14:00"',
            'start: "13:30", end: "13:30"',
            "periods[0].end",
            "end must differ from start",
        ),
        ('start: "13:30"', 'start: "25:30"', "periods[0].start", "'25:30': not a time of day"),
        ('start: "13:30"', "start: 13.5", "periods[0].start", "13.5: not a time of day"),
        ("days: weekdays, start", "days: weekday, start", "periods[0].days", "'weekday': must be one of"),
        ("timezone: Europe/London", "timezone: Europe/Londn", "controller.timezone", "did you mean 'Europe/London'?"),
        ("holidays: null", "holidays: GB-ENGL", "controller.holidays", "'GB-ENGL': unknown holiday calendar"),
        ("interval: 4s", "interval: 4", "controller.interval", "4: 4 has no unit"),
        ("interval: 4s", "interval: 0s", "controller.interval", "'0s': must be more than 0s"),
        ("max_reading_age: 10s", "max_reading_age: ten", "controller.max_reading_age", "'ten' is not a duration"),
        ("cutoff: 15m}", "cutoff: 31m}", "when_short.cutoff", "'31m': must be more than 0 and at most 30m"),
        ("cutoff: 15m}", "cutoff: 0s}", "when_short.cutoff", "'0s': must be more than 0 and at most 30m"),
        ("cushion: 20m", "cushion: 1d", "cushion", "must be at least 0s and less than 1d"),
        # curves
        ("[0, 475], [200, 0]]", "[200, 475], [0, 0]]", "charge_curve", "its price is below the 200"),
        ("[400, 0], [.inf, 0]]", "[400, 0], [.inf, 10]]", "discharge_curve", "level towards infinity"),
        # devices
        ("bess: [WLCE-BESS-01]", "bess: []", "controller.bess", "[]: at least 1 must be named"),
        ("{mode: axle}", "{moed: axle}", "controller.modes[0]", "has no key 'mode'; did you mean it by 'moed'?"),
        ("[[-.inf, 475], [0, 475], [200, 0]]", "475", "charge_curve", "expected a list, found 475"),
        ("bess: [WLCE-BESS-01]", "bess: [A, A]", "controller.bess", "'A' is named twice"),
        ("bess_meter: [WLCE-BESS-METER]", "bess_meter: [A, B]", "controller.bess_meter", "2 meters for 1 batteries"),
        # levels that the battery can't hold
        (
            "soe_kwh: 130",
            "soe_kwh: 501",
            "controller.modes[4].soe_kwh",
            "501: must be at most battery.capacity_kwh = 500",
        ),
        ("to_soe_kwh: 400", "to_soe_kwh: 600", "controller.modes[5].to_soe_kwh", "600: must be at most"),
        ("target_soe_kwh: 100", "target_soe_kwh: 600", "controller.modes[2].target_soe_kwh", "600: must be at most"),
        ("shift_long: 60", "response: proportional", "factor_kw_per_mw", "response: proportional needs it"),
    ],
)
def test_a_wrong_plan_is_refused_by_line_key_value_and_bound(old: str, new: str, key: str, message: str) -> None:
    text = refusal(old, new)
    assert key in text
    assert message in text
    assert "\n" not in text, "one mistake, one line"
    changed = SAMPLE.replace(old, new, 1)
    number = re.match(r"site\.yaml:(\d+): ", text)
    assert number is not None
    if "is missing" not in message and "response" not in new:
        wrong = new.strip().split(":")[0].split("[")[0].split(",")[0].strip()
        assert (
            int(number[1]) == line_of(changed, new.splitlines()[0]) or wrong in changed.splitlines()[int(number[1]) - 1]
        )


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        (
            '[{days: all, start: "02:00", end: "05:00"}]',
            '[{start: "02:00", end: "05:00"}, {days: [sat], start: "04:00", end: "06:00"}]',
            "controller.modes[4].periods[1]: 04:00–06:00 overlaps 02:00–05:00 of the same list (number 1 of it)",
        ),
        (
            'default_prices: [{price: 80, periods: [{days: all, start: "00:00", end: "24:00"}]}]',
            'default_prices: [{price: 80, periods: [{start: "00:00", end: "24:00"}, {start: "22:00", end: "02:00"}]}]',
            "controller.modes[3].default_prices[0].periods[1]",
        ),
        (
            '[{days: weekdays, start: "17:00", end: "19:00"}]}]',
            '[{start: "17:00", end: "19:00"}, {days: [mon], start: "18:59", end: "20:00"}]}]',
            "controller.rates.import[0].periods[1]",
        ),
    ],
)
def test_overlapping_periods_of_one_list_are_refused(old: str, new: str, where: str) -> None:
    assert where in refusal(old, new)
    text = SAMPLE.replace(old, new, 1)
    assert parse_plan(YamlDocument(text, "site.yaml"), allow_overlaps=True).modes


def test_periods_that_touch_do_not_overlap() -> None:
    plan_of('charge_to_soe, soe_kwh: 130, periods: [{start: "02:00", end: "05:00"}, {start: "05:00", end: "06:00"}]')


def test_a_level_may_be_the_capacity() -> None:
    assert plan_of('charge_to_soe, soe_kwh: 500, periods: [{start: "02:00", end: "05:00"}]').modes


def test_all_mistakes_are_told_at_once() -> None:
    text = SAMPLE.replace("soe_kwh: 130", "soe_kwh: 1300").replace("target_soe_kwh: 100", "target_soe_kwh: 1000")
    with pytest.raises(InputError) as caught:
        parse_plan(YamlDocument(text, "site.yaml"))
    assert len(str(caught.value).splitlines()) == 2


def test_a_plan_made_in_code_is_checked_too() -> None:
    body = sample_plan().model_dump(by_alias=True) | {
        "battery": {**sample_plan().battery.model_dump(), "capacity_kwh": 90}
    }
    with pytest.raises(ValueError, match="capacity_kwh = 90"):
        ControllerPlan.model_validate(body)
    smaller = sample_plan().battery.model_copy(update={"capacity_kwh": 99.0})
    with pytest.raises(ValueError, match=r"modes\.2\.target_soe_kwh: 100: must be at most"):
        sample_plan().model_copy(update={"battery": smaller})


def test_a_copy_decides_by_its_own_modes() -> None:
    plan = sample_plan()
    assert run(plan, "2026-01-15 20:00", 300, 40).target_power_kw == 40
    assert run(plan.model_copy(update={"modes": ()}), "2026-01-15 20:00", 300, 40).target_power_kw == 0


def test_a_plan_can_be_sent_to_another_process() -> None:
    again = pickle.loads(pickle.dumps(sample_plan()))
    assert again == sample_plan()
    assert run(again, "2026-01-15 20:00", 300, 40).target_power_kw == 40


def test_the_section_alone_and_a_whole_site_file_are_the_same_plan(tmp_path: Path) -> None:
    whole, alone = tmp_path / "site.yaml", tmp_path / "plan.yaml"
    whole.write_text("site: WLCE\n" + SAMPLE)
    alone.write_text("\n".join(line[2:] for line in SAMPLE.splitlines()[1:]))
    assert load_plan(whole) == load_plan(alone)


def test_json_is_yaml(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(plan_of("axle").model_dump_json(by_alias=True))
    assert load_plan(path) == plan_of("axle")


def test_defaults() -> None:
    text = """
site_meter: M
bess: [B]
battery: {capacity_kwh: 100, charge_limit_kw: 10, discharge_limit_kw: 10}
site: {import_limit_kw: 1, export_limit_kw: 1}
"""
    plan = parse_plan(YamlDocument(text, "plan.yaml"))
    assert (plan.battery.soe_min_kwh, plan.battery.soe_max_kwh, plan.battery.charge_efficiency) == (0, 100, 1)
    assert (plan.timezone, plan.modes, plan.interval.total_seconds()) == ("Europe/London", (), 4)


def test_the_hash_is_of_the_values() -> None:
    plan = sample_plan()
    commented = parse_plan(YamlDocument("# a note\n" + SAMPLE, "other.yaml"))
    changed = parse_plan(YamlDocument(SAMPLE.replace("shift_long: 60", "shift_long: 61"), "site.yaml"))
    order = parse_plan(YamlDocument(SAMPLE.replace("    - {mode: axle}\n", "") + "    - {mode: axle}\n", "site.yaml"))
    assert plan_hash(plan) == plan_hash(commented)
    assert len({plan_hash(plan), plan_hash(changed), plan_hash(order)}) == 3
    assert re.fullmatch("[0-9a-f]{16}", plan_hash(plan))


def test_a_plan_survives_the_way_through_json() -> None:
    plan = sample_plan()
    again = ControllerPlan.model_validate(plan.model_dump(mode="json", by_alias=True))
    assert again == plan
    assert plan_hash(again) == plan_hash(plan)


def test_every_mode_names_itself_and_its_source() -> None:
    names = [mode.model_fields["mode"].default for mode in MODES]
    assert len(names) == len(set(names)) == 10
    assert all(issubclass(mode, ModeConfig) and mode.source is not None for mode in MODES)
    assert all(mode.__module__.endswith(f".{name}") for mode, name in zip(MODES, names, strict=True))


def test_the_schema_of_the_plan_names_every_mode() -> None:
    schema = ControllerPlan.model_json_schema()
    assert set(schema["properties"]["modes"]["items"]["discriminator"]["mapping"]) == {
        mode.model_fields["mode"].default for mode in MODES
    }


def test_without_timeout_takes_one_word() -> None:
    assert plan_of("axle", head=HEAD + "  without_timeout: accepted\n").without_timeout == "accepted"
    with pytest.raises(InputError, match="without_timeout: True: input should be 'accepted'"):
        plan_of("axle", head=HEAD + "  without_timeout: true\n")


def test_a_site_file_without_a_plan_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("site: WLCE\nrecording: {polling_interval: 30s}\n")
    with pytest.raises(InputError) as caught:
        load_plan(tmp_path / "site.yaml")
    assert str(caught.value).endswith("this site file has no `controller:` section, so there is no plan in it")
