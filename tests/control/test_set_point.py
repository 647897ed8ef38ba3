"""A set-point by hand: before every mode, within every limit, over by itself, the same when it is replayed."""

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from tests.control.kit import ALL_DAY, at, plan_of, run, schedule, state

from flux.control.decide import BY_HAND, decide
from flux.control.decision import Decision, Limit
from flux.control.ledger import differences, keep, kept_from_json, kept_to_json, replay_kept
from flux.control.plan import plan_hash
from flux.control.state import SetPoint, SiteLimits, Stop
from flux.model import CommandSource, DeviceId

NOW = "2026-01-15 12:00"
UNTIL = at("2026-01-15 12:15")
PLAN = plan_of("axle", f"import_avoidance, {ALL_DAY}", f"export_avoidance, {ALL_DAY}")


def by_hand(power_kw: float) -> SetPoint:
    return SetPoint("WLCE-BESS-01", power_kw, UNTIL, "anna")


def asked(power_kw: float, time: str = NOW, soe: float = 200, load: float = 40, **more: Any) -> Decision:
    return run(PLAN, time, soe, load, set_point=by_hand(power_kw), **more)


def test_it_goes_before_every_mode_and_says_so() -> None:
    steps = schedule((NOW, "2026-01-15 13:00", "discharge_max"))
    decision = asked(-30, schedule=steps)
    assert (decision.target_power_kw, decision.effective) == (-30, BY_HAND)
    assert decision.command_source is CommandSource.MANUAL
    assert decision.active[0] == BY_HAND
    assert "charging 30.0 kW: set-point by anna until 12:15:00" in decision.reason
    assert "axle refused" in decision.reason


@pytest.mark.parametrize(
    ("power_kw", "soe", "load", "more", "expected", "limit"),
    [
        (500, 200, 40, {}, 105, Limit.INVERTER),
        (-500, 200, 40, {}, -100, Limit.INVERTER),
        (-100, 200, 150, {}, -70, Limit.SITE_IMPORT),
        (100, 200, 10, {"limits": SiteLimits(export_kw=20)}, 30, Limit.SITE_EXPORT),
        (50, 25, 40, {}, 0, Limit.SOE_MIN),
        (-50, 475, 40, {}, 0, Limit.SOE_MAX),
    ],
)
def test_it_stays_within_all_limits(
    power_kw: float, soe: float, load: float, more: dict[str, Any], expected: float, limit: Limit
) -> None:
    decision = asked(power_kw, soe=soe, load=load, **more)
    assert decision.target_power_kw == pytest.approx(expected)
    assert limit in decision.limits


def test_it_is_over_at_its_end() -> None:
    assert asked(-30, "2026-01-15 12:14").effective == BY_HAND
    assert asked(-30, "2026-01-15 12:15").effective == "import_avoidance"


def test_a_stop_and_stale_readings_go_before_it() -> None:
    stopped = asked(-30, stop=Stop("stopped by ben", at(NOW)))
    assert (stopped.target_power_kw, stopped.effective) == (0, None)
    stale = decide(PLAN, state(NOW, None, 40, set_point=by_hand(-30)))
    assert stale.target_power_kw is None
    assert stale.reason.startswith("stale")


def test_replaying_it_from_the_ledger_gives_the_same() -> None:
    frozen = state(NOW, 200, 40, set_point=by_hand(-30))
    kept = keep(decide(PLAN, frozen), frozen, device_id=DeviceId(UUID(int=2)), hash_of_plan=plan_hash(PLAN))
    body = json.loads(json.dumps(kept_to_json(kept)))
    again = replay_kept(PLAN, kept_from_json(body).inputs)
    assert differences(body, again) == []
    assert again.target_power_kw == -30
    assert again.time - at(NOW) == timedelta()
