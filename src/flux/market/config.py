"""The ``market`` section of the worker's file: which platforms are asked, how often, and where their credentials are.

Secrets are not written into the file: it names the environment variables that hold them.
"""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from flux.errors import InputError
from flux.market import axle, elexon, modo
from flux.model import DeviceName, Duration, SiteCode


def _sane(value: timedelta) -> timedelta:
    if not timedelta(seconds=5) <= value <= timedelta(days=1):
        raise ValueError("must be from 5s to 1d")
    return value


def _some_days(value: timedelta) -> timedelta:
    if not timedelta(minutes=30) <= value <= timedelta(days=60):
        raise ValueError("must be from 30m to 60d")
    return value


Every = Annotated[Duration, AfterValidator(_sane)]
Back = Annotated[Duration, AfterValidator(_some_days)]
BaseUrl = Annotated[str, Field(pattern=r"^https?://[^\s/?#]+[^\s?#]*$")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ElexonConfig(_Section):
    """System prices, imbalance volume and market index price; public."""

    every: Every = timedelta(minutes=5)
    """How often it is asked."""
    back: Back = timedelta(days=2)
    """How far back each time: figures are revised."""
    base_url: BaseUrl = elexon.BASE_URL


class ModoConfig(_Section):
    """Live estimates of system price and NIV."""

    every: Every = timedelta(minutes=1)
    back: Back = timedelta(hours=1)
    token_env: VariableName | None = "MODO_API_TOKEN"  # noqa: S105 - the variable's name
    """The environment variable that holds the token; null: none is sent."""
    base_url: BaseUrl = modo.BASE_URL


class TelemetryConfig(_Section):
    """What is sent to Axle, by the names of devices in the registry."""

    every: Every = timedelta(minutes=1)
    site_meter: DeviceName
    """Its power is the import over the site's boundary."""
    bess: Annotated[tuple[DeviceName, ...], Field(min_length=1)]
    """Their stored energy, together."""
    bess_meter: tuple[DeviceName, ...] = ()
    """Their power is what the inverters import, together; without one nothing is said of it."""


class AxleConfig(_Section):
    """The dispatch schedule of one site."""

    site: SiteCode
    asset: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    """The asset's id at Axle."""
    every: Every = timedelta(minutes=1)
    username_env: VariableName = "AXLE_USERNAME"
    password_env: VariableName = "AXLE_PASSWORD"  # noqa: S105 - the variable's name
    telemetry: TelemetryConfig | None = None
    """Null: nothing is sent."""
    base_url: BaseUrl = axle.BASE_URL


class MarketConfig(_Section):
    """Platforms that are not named are not asked."""

    elexon: ElexonConfig | None = None
    modo: ModoConfig | None = None
    axle: tuple[AxleConfig, ...] = ()

    def variables(self) -> Iterator[str]:
        """The environment variables whose secrets are needed."""
        if self.modo is not None and self.modo.token_env is not None:
            yield self.modo.token_env
        for one in self.axle:
            yield from (one.username_env, one.password_env)


def secrets(names: Iterator[str] | list[str], environ: Mapping[str, str]) -> dict[str, str]:
    """The values of these variables; InputError names all that are missing."""
    wanted = list(dict.fromkeys(names))
    missing = [name for name in wanted if not environ.get(name)]
    if missing:
        raise InputError(f"not set in the environment: {', '.join(missing)}")
    return {name: environ[name] for name in wanted}
