"""Templates over HTTP: which there are, what one says, giving one to many devices."""

from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flux.api.identity import Role
from flux.api.typed.operation import Caller, ForbiddenError, Text, operation
from flux.errors import NotFoundError
from flux.model import DeviceType
from flux.registry.templates import (
    NamedTemplate,
    TemplateChange,
    apply_template,
    changes_by,
    given_template,
    known_template,
    matching_devices,
    template_names,
)

_TAG = "Templates"
_LARGEST = 1_000_000


@dataclass(frozen=True, slots=True)
class TemplateSummary:
    """A template in short; ``text``: as it was given, None for one that comes with Flux."""

    name: str
    type: DeviceType
    manufacturer: str
    model: str | None
    registers: int
    controllable: bool
    text: str | None


@dataclass(frozen=True, slots=True)
class TemplateApplied:
    """What changes of each device; ``committed`` False: what would."""

    changes: list[TemplateChange]
    committed: bool


class TemplateApply(BaseModel):
    """Which template to give to which devices; without ``commit`` only what would change is told."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"template": "powerpack_bess", "filter": "type=bess,site=WLCE"}]},
    )

    template: Text = Field(description="The name of a template of the platform, or one that comes with Flux.")
    text: str | None = Field(
        default=None,
        max_length=_LARGEST,
        description="A template in YAML that the platform is to keep under that name.",
    )
    filter: Text = Field(description='Which devices, e.g. "type=bess,site=WLCE" or "name=WLCE-BESS-01".')
    commit: bool = False

    @model_validator(mode="after")
    def _text_is_text(self) -> Self:
        if self.text is not None and "\0" in self.text:
            raise ValueError("text has a NUL in it")
        return self


@operation("GET", "/v1/templates", tag=_TAG)
async def list_templates(caller: Caller) -> list[TemplateSummary]:
    """List the templates of the platform, and those that come with Flux, by name."""
    return [_summary(await known_template(caller.conn, name)) for name in await template_names(caller.conn)]


@operation("GET", "/v1/templates/{template}", tag=_TAG, errors=(404,))
async def show_template(
    caller: Caller, template: Annotated[Text, Field(description="Its name.", examples=["powerpack_bess"])]
) -> TemplateSummary:
    """One template."""
    return _summary(await known_template(caller.conn, template))


@operation("POST", "/v1/templates/apply", tag=_TAG, needs=Role.OPERATOR, errors=(404, 409))
async def apply_template_to(caller: Caller, body: TemplateApply) -> TemplateApplied:
    """Give a template to many devices: tells what changes of each, and with `commit` does it, for all or none.

    Pollers take the new registers up while they run. A text is kept for every site, so it needs a key of all sites.
    """
    _check_may_keep(caller, body)
    devices = await matching_devices(caller.conn, body.filter)
    if not devices:
        raise NotFoundError(f"no device matches {body.filter!r}")
    if body.text is None:
        named = await known_template(caller.conn, body.template)
    else:
        named = given_template(body.text, body.template)
    changes = await changes_by(caller.conn, named, devices)
    if body.commit:
        await apply_template(caller.conn, named, devices, actor=caller.actor)
    return TemplateApplied(changes, body.commit)


def _check_may_keep(caller: Caller, body: TemplateApply) -> None:
    """A template's name is the same at every site: who may see only some must not change what the others go by."""
    if body.text is not None and body.commit and caller.sites is not None:
        raise ForbiddenError("a template is kept for every site, and this key is for some: name one that there is")


def _summary(named: NamedTemplate) -> TemplateSummary:
    one = named.template
    return TemplateSummary(
        one.name, one.type, one.manufacturer, one.model, len(one.registers), one.controllable, named.text
    )


OPERATIONS: tuple[Any, ...] = (list_templates, show_template, apply_template_to)
