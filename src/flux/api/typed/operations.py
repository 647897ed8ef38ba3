"""All operations, in the order in which the description shows them."""

from typing import Any

from flux.api.typed import (
    control,
    devices,
    groups,
    health,
    jobs,
    ledger,
    maintenance,
    market,
    quality,
    readings,
    service,
    templates,
)
from flux.api.typed.operation import Operation

_SUBJECTS = (
    devices,
    templates,
    groups,
    maintenance,
    jobs,
    control,
    ledger,
    health,
    readings,
    quality,
    market,
    service,
)


def all_operations() -> tuple[Operation[Any, Any], ...]:
    """Every operation with an address of its own."""
    return tuple(one for subject in _SUBJECTS for one in subject.OPERATIONS)
