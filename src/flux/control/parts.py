"""Parts of the plan that every mode may need: battery, grid connection, rates."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from flux.control.numbers import Efficiency, Finite, NotNegative, Positive
from flux.control.periods import ALL_DAY, PeriodConfig, Timetable


def _not_empty(periods: tuple[PeriodConfig, ...]) -> tuple[PeriodConfig, ...]:
    # pydantic's own min_length would complain a second time of a list whose only period is wrong
    if not periods:
        raise ValueError("names no period, so it never holds")
    return periods


Periods = Annotated[tuple[PeriodConfig, ...], AfterValidator(_not_empty), Field(json_schema_extra={"minItems": 1})]


class PlanPart(BaseModel):
    """Base of every section of the plan: frozen, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class BatteryConfig(PlanPart):
    """The battery, or all batteries of the plan together."""

    capacity_kwh: Positive
    charge_efficiency: Efficiency = Field(
        default=1.0, description="stored / drawn when charging; discharge is lossless"
    )
    charge_limit_kw: NotNegative
    discharge_limit_kw: NotNegative
    soe_min_kwh: NotNegative = 0.0
    soe_max_kwh: NotNegative = Field(
        default_factory=lambda data: data.get("capacity_kwh", 0.0), description="default: the capacity"
    )
    blocks_total: int | None = Field(default=None, ge=1, description="inverter blocks; default: what the battery says")

    @field_validator("soe_min_kwh", mode="after")
    @classmethod
    def _min_is_below_capacity(cls, value: float, info: Any) -> float:
        capacity = info.data.get("capacity_kwh")
        if capacity is not None and value >= capacity:
            raise ValueError(f"must be below capacity_kwh = {capacity:g}")
        return value

    @field_validator("soe_max_kwh", mode="after")
    @classmethod
    def _max_is_between_min_and_capacity(cls, value: float, info: Any) -> float:
        capacity, soe_min = info.data.get("capacity_kwh"), info.data.get("soe_min_kwh")
        if capacity is not None and value > capacity:
            raise ValueError(f"must be at most capacity_kwh = {capacity:g}")
        if soe_min is not None and value <= soe_min:
            raise ValueError(f"must be above soe_min_kwh = {soe_min:g}")
        return value


class SiteConfig(PlanPart):
    """What the grid connection may carry, kW, both ≥ 0."""

    import_limit_kw: NotNegative
    export_limit_kw: NotNegative


class RateConfig(PlanPart):
    """A price per MWh on top of the imbalance price, while one of its periods holds."""

    name: str = Field(min_length=1)
    price: Finite = Field(description="£/MWh, + cost; an export rate below 0 is income")
    periods: Periods = (ALL_DAY,)


class RatesConfig(PlanPart):
    """All rates of a direction that hold add up."""

    import_: tuple[RateConfig, ...] = Field(default=(), alias="import")
    export: tuple[RateConfig, ...] = ()


class RateSum:
    """The sum of the rates of one direction at an instant, £/MWh."""

    __slots__ = ("_rates",)

    def __init__(self, rates: Sequence[tuple[float, Timetable]]) -> None:
        self._rates = tuple(rates)

    def at(self, now: datetime) -> float:
        total = 0.0
        for price, timetable in self._rates:
            if timetable.holding(now) is not None:
                total += price
        return total
