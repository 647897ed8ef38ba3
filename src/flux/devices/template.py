"""A kind of device as data: its registers, how to poll it, how to command it. See docs/templates.md.

A file has a long form, in which ``registers`` is a list, and a short form, in which it maps names to addresses and the
types follow from the names (:mod:`flux.devices.names`). Both give a :class:`DeviceTemplate`.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from flux.config import YamlDocument, load_yaml
from flux.devices.checks import problems_of
from flux.devices.codec import MAX_BLOCK_WORDS
from flux.devices.control import ControlSection
from flux.devices.fingerprint import FingerprintCheck, fingerprint_problems
from flux.devices.names import ShortRegister, ShortScaling, register_from_short
from flux.devices.registers import Access, Function, Ratio, Register, RegisterName, RegisterType, WordOrder
from flux.errors import InputError, NotFoundError
from flux.model import DeviceType, Duration, parse_duration

__all__ = [
    "Access",
    "ControlSection",
    "DefaultConfig",
    "DeviceTemplate",
    "Function",
    "Ratio",
    "Register",
    "RegisterType",
    "WordOrder",
    "builtin_template",
    "builtin_template_names",
    "builtin_templates",
    "load_template",
    "parse_template",
    "template_schema",
]

_BUILTIN_FOLDER = Path(__file__).parent / "templates"
_TOP_KEY = "device_template"
_MAX_PROBLEMS = 10


class DefaultConfig(BaseModel):
    """How a device of this kind is polled, unless its own metadata says otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    polling_interval: Duration = Field(default=parse_duration("60s"), gt=parse_duration("0s"))
    timeout: Duration = Field(default=parse_duration("5s"), gt=parse_duration("0s"), description="of one request")
    retry_count: int = Field(default=3, ge=0, le=10, description="further tries after a request that failed")


class _Common(BaseModel):
    """What both forms of the file share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = Field(default=None, min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    type: DeviceType
    manufacturer: str
    model: str | None = None
    description: str = ""
    default_config: DefaultConfig = DefaultConfig()
    function: Function = Function.HOLDING
    max_block_words: int = Field(default=MAX_BLOCK_WORDS, ge=2, le=MAX_BLOCK_WORDS, description="longest read")
    max_gap_words: int = Field(
        default=MAX_BLOCK_WORDS, ge=0, le=MAX_BLOCK_WORDS, description="unlisted addresses that one read may run over"
    )
    blocks_total: int | None = Field(default=None, ge=1, description="inverter blocks when all are available")
    control: ControlSection | None = None
    fingerprint: tuple[FingerprintCheck, ...] = Field(
        default=(), description="registers by whose values a scan tells a device of this kind; all must fit"
    )


class _LongForm(_Common):
    registers: tuple[Register, ...] = Field(min_length=1)


class _ShortForm(_Common):
    registers: dict[RegisterName, ShortRegister] = Field(min_length=1)
    scaling: ShortScaling = ShortScaling()


class DeviceTemplate(_LongForm):
    """A kind of device. Frozen; ``model_dump(mode="json")`` and ``model_validate`` take it through JSON and back."""

    name: str

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = problems_of(
            self.type, self.registers, self.control, self.function is Function.INPUT, self.max_block_words
        )
        problems = problems or fingerprint_problems(self.fingerprint, self.registers)
        for problem in problems:
            raise ValueError(f"{'.'.join(str(part) for part in problem.path)}: {problem.message}")
        return self

    @property
    def content_hash(self) -> str:
        """SHA-256 of everything that polls and commands depend on; two templates with one hash behave alike."""
        text = json.dumps(self.model_dump(mode="json", exclude={"fingerprint"}), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def readable(self) -> tuple[Register, ...]:
        return tuple(register for register in self.registers if register.readable)

    @property
    def has_set_point(self) -> bool:
        """Whether a device of this kind can be given a power at all."""
        return self.control is not None

    @property
    def controllable(self) -> bool:
        """Whether it has both a set-point and a command timeout, so that silence brings it to its safe state."""
        return self.control is not None and self.control.timeout is not None

    def find(self, name: str) -> Register | None:
        """The register of that name."""
        return next((register for register in self.registers if register.name == name), None)

    def register(self, name: str) -> Register:
        """The register of that name; :class:`NotFoundError` when there is none."""
        found = self.find(name)
        if found is None:
            raise NotFoundError(f"template {self.name} has no register {name!r}")
        return found


def parse_template(document: YamlDocument | str, source: str = "template") -> DeviceTemplate:
    """Read a template in either form; a file without ``name`` is named after ``source``.

    Raises :class:`InputError` with a line for each problem: file, line, field, value, what to do.
    """
    if isinstance(document, str):
        document = YamlDocument(document, source)
    prefix = _section_of(document)
    section = document.data[_TOP_KEY] if prefix else document.data
    short = isinstance(section, Mapping) and isinstance(section.get("registers"), Mapping)
    form = document.parse(_ShortForm, prefix) if short else document.parse(_LongForm, prefix)
    registers, keys = _registers_of(form, document, prefix)
    problems = problems_of(
        form.type, registers, form.control, form.function is Function.INPUT, form.max_block_words, keys
    )
    problems = problems or fingerprint_problems(form.fingerprint, registers)
    if problems:
        lines = [str(document.error([*prefix, *problem.path], problem.message)) for problem in problems]
        raise InputError("\n".join(dict.fromkeys(lines[:_MAX_PROBLEMS])))
    fields = {name: getattr(form, name) for name in _LongForm.model_fields}
    return DeviceTemplate.model_validate(fields | {"name": form.name or Path(source).stem, "registers": registers})


def _section_of(document: YamlDocument) -> list[str]:
    """Where in the file the template is: under ``device_template``, or at the top."""
    if not isinstance(document.data, Mapping) or _TOP_KEY not in document.data:
        return []
    for key in document.data:
        if key != _TOP_KEY:
            raise document.error([key], f"unknown key beside {_TOP_KEY!r}; move it in there or remove it")
    return [_TOP_KEY]


def _registers_of(
    form: _ShortForm | _LongForm, document: YamlDocument, prefix: list[str]
) -> tuple[tuple[Register, ...], list[int | str]]:
    """The registers, and under which key or number each stands in the file."""
    if isinstance(form, _LongForm):
        return form.registers, list(range(len(form.registers)))
    registers = []
    for name, short in form.registers.items():
        try:
            registers.append(register_from_short(form.type, name, short, form.scaling))
        except ValueError as error:
            raise document.error([*prefix, "registers", name], _first_message(error)) from None
    return tuple(registers), list(form.registers)


def _first_message(error: ValueError) -> str:
    details = getattr(error, "errors", None)  # pydantic's ValidationError is a ValueError that lists its parts
    message = str(details()[0]["msg"]) if callable(details) else str(error)
    return message.removeprefix("Value error, ")


def load_template(path: Path) -> DeviceTemplate:
    """Read a template file; without a ``name`` in it, it is named after the file."""
    return parse_template(load_yaml(path), str(path))


def builtin_templates() -> dict[str, DeviceTemplate]:
    """The templates that come with Flux, by name."""
    loaded = [load_template(path) for path in sorted(_BUILTIN_FOLDER.glob("*.yaml"))]
    return {template.name: template for template in loaded}


def builtin_template(name: str) -> DeviceTemplate:
    """One of the templates that come with Flux; :class:`NotFoundError` names those that there are."""
    known = builtin_template_names()
    if name not in known:
        raise NotFoundError(f"no built-in device template {name!r}; there are {', '.join(known)}")
    return load_template(_BUILTIN_FOLDER / f"{name}.yaml")


def builtin_template_names() -> list[str]:
    """In order of the alphabet."""
    return sorted(path.stem for path in _BUILTIN_FOLDER.glob("*.yaml"))


def template_schema() -> dict[str, Any]:
    """The JSON Schema of a template file, both forms, with and without ``device_template`` around it."""
    schema = TypeAdapter(_ShortForm | _LongForm).json_schema()
    definitions = schema.pop("$defs")
    definitions["Template"] = schema
    here: dict[str, Any] = {"$ref": "#/$defs/Template"}
    wrapped = {"type": "object", "properties": {_TOP_KEY: here}, "required": [_TOP_KEY], "additionalProperties": False}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Flux device template",
        "anyOf": [wrapped, here],
        "$defs": definitions,
    }
