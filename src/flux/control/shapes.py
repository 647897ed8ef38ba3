"""What a mode may answer, and the usual shapes of an answer.

All powers are the battery's, kW, + discharge, − charge; ±inf means as much as the limits allow.
"""

import math
from typing import NamedTuple

from flux.control.state import FullDischarge


class Offer(NamedTuple):
    """An optional target, minimum and maximum, and the reason in words.

    ``begins`` is remembered for the next cycles, unless a higher mode refuses the offer.
    """

    target: float | None
    minimum: float | None
    maximum: float | None
    reason: str
    begins: FullDischarge | None = None


class Notice(NamedTuple):
    """The mode proposes nothing, and somebody should know why."""

    reason: str


def charge_more_allowed(power_kw: float, reason: str) -> Offer:
    """Charge at ``power_kw`` (≤ 0); modes below may charge harder."""
    return Offer(power_kw, None, power_kw, reason)


def discharge_more_allowed(power_kw: float, reason: str) -> Offer:
    """Discharge at ``power_kw`` (≥ 0); modes below may discharge harder."""
    return Offer(power_kw, power_kw, None, reason)


def take_over(power_kw: float, reason: str, begins: FullDischarge | None = None) -> Offer:
    """Exactly ``power_kw``, nothing left to the modes below."""
    return Offer(power_kw, power_kw, power_kw, reason, begins)


def hold(reason: str) -> Offer:
    """No charging, and no wish of its own."""
    return Offer(None, 0.0, None, reason)


def import_avoidance(rest_kw: float, reason: str = "") -> Offer:
    """Meet what the site would draw; where it would export, only forbid charging harder than the surplus."""
    why = reason or f"import avoidance, {site_at_rest(rest_kw)}"
    return Offer(rest_kw if rest_kw >= 0 else None, rest_kw, None, why)


def import_avoidance_no_more(rest_kw: float, reason: str) -> Offer:
    """Import avoidance that lets no mode below discharge any harder."""
    if rest_kw >= 0:
        return take_over(rest_kw, reason)
    return Offer(None, rest_kw, 0.0, reason)


def export_avoidance(rest_kw: float, reason: str = "") -> Offer:
    """Take up what the site would export; where it would import, only forbid discharging harder than the demand."""
    why = reason or f"export avoidance, {site_at_rest(rest_kw)}"
    return Offer(rest_kw if rest_kw <= 0 else None, None, rest_kw, why)


def site_at_rest(rest_kw: float) -> str:
    """``site would draw 42.0 kW``: the site's power with the battery at rest, in words."""
    if rest_kw < 0:
        return f"site would export {-rest_kw:.1f} kW"
    return f"site would draw {rest_kw + 0.0:.1f} kW"


def in_words(power_kw: float) -> str:
    """``charging 90.0 kW``, ``discharging at full power``, ``0 kW``."""
    if power_kw == 0:
        return "0 kW"
    size = "at full power" if math.isinf(power_kw) else f"{abs(power_kw):.1f} kW"
    return f"{'discharging' if power_kw > 0 else 'charging'} {size}"
