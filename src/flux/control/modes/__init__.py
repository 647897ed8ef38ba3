"""The control modes. To add one, write its module and put its config into ``MODES``."""

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from flux.control.modes.axle import Axle
from flux.control.modes.base import ModeConfig
from flux.control.modes.charge_to_soe import ChargeToSoe
from flux.control.modes.discharge_to_soe import DischargeToSoe
from flux.control.modes.dynamic_peak_approach import DynamicPeakApproach
from flux.control.modes.dynamic_peak_discharge import DynamicPeakDischarge
from flux.control.modes.export_avoidance import ExportAvoidance
from flux.control.modes.fixed import Fixed
from flux.control.modes.import_avoidance import ImportAvoidance
from flux.control.modes.import_avoidance_when_short import ImportAvoidanceWhenShort
from flux.control.modes.niv_chase import NivChase

MODES: tuple[type[ModeConfig], ...] = (
    Axle,
    DischargeToSoe,
    DynamicPeakDischarge,
    NivChase,
    ChargeToSoe,
    DynamicPeakApproach,
    ImportAvoidance,
    ExportAvoidance,
    ImportAvoidanceWhenShort,
    Fixed,
)

if TYPE_CHECKING:
    AnyMode = ModeConfig
else:
    AnyMode = Annotated[reduce(or_, MODES), Field(discriminator="mode")]

__all__ = ["MODES", "AnyMode", "ModeConfig"]
