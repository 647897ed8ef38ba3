"""``site.yaml``: what the edge of a site must know to begin. Everything else it learns from the platform.

Devices, their addresses and their templates are in the platform's registry, not here. `docs/edge.md` lists every key.
"""

from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from flux.config import YamlDocument, load_yaml
from flux.control.plan import ControllerPlan, load_plan, parse_plan
from flux.errors import InputError
from flux.model import Duration, SiteCode

DEFAULT_KEY_ENV = "FLUX_EDGE_KEY"
DEFAULT_DATABASE_URL_ENV = "FLUX_DATABASE_URL"
_SHADOWS = "shadow_plans"
DEFAULT_POLLING_INTERVAL = timedelta(seconds=60)


def _a_sane_interval(value: timedelta) -> timedelta:
    if not timedelta(milliseconds=100) <= value <= timedelta(days=1):
        raise ValueError("must be from 100ms to 1d")
    return value


Interval = Annotated[Duration, AfterValidator(_a_sane_interval)]


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _not_live(name: str) -> str:
    if name == "live":
        raise ValueError("the plan of the controller section is called so")
    return name


ShadowName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$"), AfterValidator(_not_live)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class PlatformConfig(_Section):
    """How the edge reaches its platform."""

    link: Literal["sql", "https"] = "sql"
    """What carries readings and registry: ``sql``, straight to the platform's PostgreSQL, or ``https``, by its HTTP
    API: for an edge that has a URL and a key of role edge."""
    url: str | None = Field(default=None, max_length=500)
    """``https``: where the platform's API is, like ``https://flux.example``. http:// only on this machine."""
    key_env: str = Field(default=DEFAULT_KEY_ENV, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """``https``: name of the environment variable with the key; the key itself is never written into this file."""
    key_file: Path | None = None
    """``https``: a file with the key, readable by its owner only (mode 0600), in place of ``key_env``; relative to the
    site file. It is read anew when the platform refuses the key."""
    ca_file: Path | None = None
    """``https``: PEM of the authorities to trust in place of the system's; relative to the site file."""
    database_url_env: str = Field(default=DEFAULT_DATABASE_URL_ENV, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the database's URL; the URL itself, with its password, is never
    written into this file. Where ``FLUX_DATABASE_URL`` is not set, the embedded database of ``FLUX_HOME`` is used."""

    @field_validator("url")
    @classmethod
    def _is_safe(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise ValueError("write it like https://flux.example")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError("only scheme, host, port and path; the key goes into key_env or key_file")
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise ValueError("http:// would send key and readings in the clear; use https://")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _of_its_link(self) -> Self:
        if self.link == "https" and self.url is None:
            raise ValueError("link https needs url, like https://flux.example")
        given = [name for name in ("url", "key_file", "ca_file") if getattr(self, name) is not None]
        if self.link == "sql" and given:
            raise ValueError(f"{given[0]} is for link: https")
        return self


class RecordingConfig(_Section):
    """What is recorded, and how it is kept until the platform has it."""

    polling_interval: Interval | None = None
    """How often each device is recorded, on the grid of the wall clock. A device's own ``polling_interval`` (in its
    metadata) goes first; without this one, that of its template counts (60s unless it says otherwise)."""
    largest_batch: int = Field(default=5_000, ge=1, le=50_000)
    """The most readings that are sent to the platform at once."""
    memory_readings: int = Field(default=50_000, ge=100)
    """How many readings memory holds while the disk takes none; older ones are lost then, counted and alarmed.
    About 1 kB each."""


class HealthConfig(_Section):
    """When a device counts as degraded or offline, and how often that is recorded."""

    interval: Interval = timedelta(minutes=5)
    """How often a device's health is recorded while its status stays."""
    slow: Interval = timedelta(seconds=1)
    """A device whose last answer took longer is degraded."""
    error_share: float = Field(default=0.2, ge=0, le=1)
    """Of the last 20 polls; a device of which more failed is degraded."""
    offline_after: Interval = timedelta(minutes=2)
    """Without an answer for so long a device is offline."""


class SiteConfig(_Section):
    """The whole of ``site.yaml``."""

    site: SiteCode
    """The site's code, as in the registry. All of its devices are polled by this edge."""
    platform: PlatformConfig = PlatformConfig()
    """How the edge reaches its platform."""
    state_dir: Path | None = None
    """Folder of the outbox, of what was learned from the platform, and of the status file; default:
    ``edge/<site>`` in ``FLUX_HOME``. A relative path is relative to the site file."""
    templates_dir: Path | None = None
    """Folder of device templates (``*.yaml``) that the platform does not have; relative to the site file."""
    recording: RecordingConfig = RecordingConfig()
    """What is recorded, and how it is kept until the platform has it."""
    health: HealthConfig = HealthConfig()
    """When a device counts as degraded or offline, and how often that is recorded."""
    controller: ControllerPlan | None = None
    """The plan for the batteries, see `docs/control.md`; without one the edge records and controls nothing."""
    shadow_plans: dict[ShadowName, ControllerPlan] = {}
    """Plans that decide on the same states and command nothing, by name; their decisions are in the ledger under it.
    Each is a file, relative to this one, or stands here as the ``controller`` section would."""


@dataclass(frozen=True, slots=True)
class SiteFile:
    """A site file that was checked, and its lines, so that what turns out later can still name one."""

    config: SiteConfig
    document: YamlDocument
    path: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """The site file and those that it names: a change of any is a change of it."""
        return files_of(self.path)

    def state_dir(self, home: Path) -> Path:
        """Where this edge keeps its state."""
        if self.config.state_dir is None:
            return home / "edge" / self.config.site
        return self.path.parent / self.config.state_dir

    def beside(self, path: Path | None) -> Path | None:
        """A path that the site file names, which is relative to it."""
        return None if path is None else self.path.parent / path

    @property
    def templates_dir(self) -> Path | None:
        return self.beside(self.config.templates_dir)


def load_site_file(path: Path) -> SiteFile:
    """Read and check a site file whole; InputError names file, line, key and value of what is wrong."""
    document = load_yaml(path)
    plan = parse_plan(document) if _has_plan(document) else None
    shadows = _shadow_plans(document, plan, path)
    config = document.parse(SiteConfig)
    return SiteFile(config.model_copy(update={"controller": plan, "shadow_plans": shadows}), document, path)


def files_of(path: Path) -> tuple[Path, ...]:
    """A site file and the plans that it names, whether or not it can be used; itself alone where it is no YAML."""
    try:
        data = load_yaml(path).data
    except InputError:
        return (path,)
    section = data.get(_SHADOWS) if isinstance(data, dict) else None
    named = section.values() if isinstance(section, dict) else ()
    return (path, *(path.parent / one for one in named if isinstance(one, str)))


def _shadow_plans(document: YamlDocument, live: ControllerPlan | None, path: Path) -> dict[str, ControllerPlan]:
    """Each checked like any plan, and for the same devices; one that is a file takes its place in ``document``."""
    section = document.data.get(_SHADOWS) if isinstance(document.data, dict) else None
    if not isinstance(section, dict):
        return {}
    if live is None:
        raise document.error([_SHADOWS], "there is no controller section whose states they could decide on")
    plans: dict[str, ControllerPlan] = {}
    for name, given in section.items():
        at = (_SHADOWS, name)
        if isinstance(given, str):
            plans[name] = load_plan(path.parent / given)
            section[name] = plans[name].model_dump(mode="json", by_alias=True)
        elif isinstance(given, dict):
            plans[name] = parse_plan(document, section=at)
        else:
            raise document.error(at, f"{given!r}: a file with a plan, or the plan itself")
        for key in ("site_meter", "bess", "bess_meter"):
            if getattr(plans[name], key) != getattr(live, key):
                raise document.error([*at, key], "must be as in the controller section: it decides on the same states")
    return plans


def _has_plan(document: YamlDocument) -> bool:
    return isinstance(document.data, dict) and document.data.get("controller") is not None


def site_schema() -> dict[str, Any]:
    """The JSON Schema of ``site.yaml``, for editors."""
    schema = SiteConfig.model_json_schema(by_alias=True)
    shadows = schema["properties"][_SHADOWS]["patternProperties"]
    for pattern, plan in shadows.items():
        shadows[pattern] = {"anyOf": [{"type": "string", "description": "a file with the plan"}, plan]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Flux site file"}
