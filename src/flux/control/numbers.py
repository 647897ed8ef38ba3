"""Numbers of the plan: text and true/false are not numbers, and not-a-number is none."""

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def _a_number(value: Any) -> Any:
    if isinstance(value, str) and value.strip().lower().lstrip("+-").lstrip(".") in ("inf", "infinity"):
        return -math.inf if value.strip().startswith("-") else math.inf
    if isinstance(value, bool | str):
        raise ValueError("not a number")  # noqa: TRY004 - pydantic wants ValueError
    if isinstance(value, float) and math.isnan(value):
        raise ValueError("not a number")
    return value + 0.0 if isinstance(value, float) else value  # −0 is 0, and a plan with it has the same hash


# no power, energy or price at a site is near this; sums and products of what is below it stay finite
LARGEST = 1e9

MaybeInfinite = Annotated[float, BeforeValidator(_a_number)]
Finite = Annotated[float, BeforeValidator(_a_number), Field(allow_inf_nan=False, ge=-LARGEST, le=LARGEST)]
NotNegative = Annotated[Finite, Field(ge=0)]
Positive = Annotated[Finite, Field(gt=0)]
Efficiency = Annotated[Finite, Field(gt=0, le=1)]
