"""NIV chase: charge when imbalance energy is cheap for the energy in store, discharge when it is dear."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from flux.control.curves import Curve, distance
from flux.control.cycle import Cycle
from flux.control.modes.base import ModeContext, PeriodicMode, Propose
from flux.control.numbers import Finite, NotNegative, Positive
from flux.control.outlook import NO_GUESS, GuessConfig, Outlook, outlook
from flux.control.parts import Periods, PlanPart
from flux.control.periods import ALL_DAY
from flux.control.shapes import Offer, charge_more_allowed, discharge_more_allowed
from flux.model import CommandSource

Prices = Callable[[Cycle, Outlook | None], tuple[float, float] | None]


class DefaultPrice(PlanPart):
    """The price to act on, £/MWh, while the market says nothing usable."""

    price: Finite
    periods: Periods = (ALL_DAY,)


class NivChase(PeriodicMode):
    """Follows price and NIV, by curves of SoE over price or in proportion to NIV."""

    source: ClassVar[CommandSource] = CommandSource.NIV_CHASE
    mode: Literal["niv_chase"] = "niv_chase"
    charge_curve: Curve = ()
    discharge_curve: Curve = ()
    shift_long: Finite = Field(default=0.0, description="£/MWh taken off both prices while the system is long")
    shift_short: Finite = Field(default=0.0, description="£/MWh put on both prices while the system is short")
    when_short: GuessConfig = NO_GUESS
    when_long: GuessConfig = NO_GUESS
    default_prices: tuple[DefaultPrice, ...] = ()
    response: Literal["curve", "proportional"] = "curve"
    factor_kw_per_mw: Positive | None = Field(default=None, validate_default=True)
    deadband_mw: NotNegative = Field(default=0.0, description="no response while |NIV| is at or below it")
    power_limit_kw: NotNegative | None = Field(default=None, description="largest response; default: the limits alone")

    @field_validator("factor_kw_per_mw")
    @classmethod
    def _factor_goes_with_proportional(cls, factor: float | None, info: Any) -> float | None:
        if factor is None and info.data.get("response") == "proportional":
            raise ValueError("response: proportional needs it, in kW per MW of NIV, above 0")
        return factor

    def period_lists(self) -> Iterator[tuple[tuple[int | str, ...], Periods]]:
        yield ("periods",), self.periods
        for number, default in enumerate(self.default_prices):
            yield ("default_prices", number, "periods"), default.periods

    def build(self, context: ModeContext) -> Propose:
        periods = context.timetable(self.periods)
        answer = self._proportional() if self.response == "proportional" else self._by_curves(context)

        def propose(cycle: Cycle) -> Offer | None:
            if periods.holding(cycle.time) is None:
                return None
            return answer(cycle, outlook(cycle, short=self.when_short, long=self.when_long))

        return propose

    def _proportional(self) -> Callable[[Cycle, Outlook | None], Offer | None]:
        factor = self.factor_kw_per_mw or 0.0  # never None with this response: the validator refuses it
        limit = float("inf") if self.power_limit_kw is None else self.power_limit_kw

        def answer(cycle: Cycle, market: Outlook | None) -> Offer | None:
            del cycle
            if market is None or abs(market.niv_mw) <= self.deadband_mw:
                return None
            power = min(factor * abs(market.niv_mw), limit)
            why = f"NIV chase, {market.in_words()} at {factor:g} kW per MW"
            return discharge_more_allowed(power, why) if market.short else charge_more_allowed(-power, why)

        return answer

    def _by_curves(self, context: ModeContext) -> Callable[[Cycle, Outlook | None], Offer | None]:
        efficiency, prices = context.battery.charge_efficiency, self._prices(context)

        def answer(cycle: Cycle, market: Outlook | None) -> Offer | None:
            found = prices(cycle, market)
            if found is None:
                return None
            charge_price, discharge_price = found
            gap = distance(self.charge_curve, charge_price, cycle.soe_kwh)
            if gap is not None and gap > 0:
                hours, words = cycle.hours_to(cycle.sp_end), _in_words(market)
                why = f"NIV chase, {words}, charge price £{charge_price:.2f}/MWh, {gap:.1f} kWh below the charge curve"
                return charge_more_allowed(-gap / efficiency / hours, why)
            gap = distance(self.discharge_curve, discharge_price, cycle.soe_kwh)
            if gap is not None and gap < 0:
                hours, words = cycle.hours_to(cycle.sp_end), _in_words(market)
                why = f"NIV chase, {words}, discharge price £{discharge_price:.2f}/MWh"
                return discharge_more_allowed(-gap / hours, f"{why}, {-gap:.1f} kWh above the discharge curve")
            return None

        return answer

    def _prices(self, context: ModeContext) -> Prices:
        defaults = [(default.price, context.timetable(default.periods)) for default in self.default_prices]

        def prices(cycle: Cycle, market: Outlook | None) -> tuple[float, float] | None:
            """Charge price and discharge price, £/MWh."""
            if market is not None:
                price = market.price - (self.shift_long if market.long else 0.0)
                price += self.shift_short if market.short else 0.0
            else:
                holding = [price for price, timetable in defaults if timetable.holding(cycle.time) is not None]
                if not holding:
                    return None
                price = holding[0]
            return price + context.import_rates.at(cycle.time), price - context.export_rates.at(cycle.time)

        return prices


def _in_words(market: Outlook | None) -> str:
    return "no outlook, default price" if market is None else market.in_words()
