"""Templates in the registry: which one a device goes by, and giving one to many devices at once."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from flux.devices.template import (
    DeviceTemplate,
    builtin_template,
    builtin_template_names,
    load_template,
    parse_template,
)
from flux.errors import InputError, NotFoundError
from flux.model import Device, DeviceId, DeviceState, DeviceType
from flux.registry.acting import acting
from flux.registry.devices import list_devices, set_metadata


@dataclass(frozen=True, slots=True)
class NamedTemplate:
    """A template and its text; ``text`` None: it comes with Flux, every edge has it."""

    template: DeviceTemplate
    text: str | None


@dataclass(frozen=True, slots=True)
class TemplateChange:
    """What a template would change of one device, in words; no lines: nothing."""

    device: Device
    lines: tuple[str, ...]


async def find_template(conn: AsyncConnection[Any], name_or_file: str) -> NamedTemplate:
    """A file where there is one of that name, else the platform's template, else one that comes with Flux.

    ``powerpack_bess.yaml`` means the template ``powerpack_bess`` where there is no such file here.
    """
    file = Path(name_or_file)
    if (found := _from_file(file)) is not None:
        return found
    named_as_file = file.suffix in {".yaml", ".yml", ".json"}
    name = file.stem if named_as_file and file.name == name_or_file else name_or_file
    if (known := await _known(conn, name)) is not None:
        return known
    if named_as_file:
        load_template(file)  # which says that there is no such file
    raise NotFoundError(
        f"no template {name_or_file!r}: no such file, and there are {', '.join(builtin_template_names())}"
    )


async def known_template(conn: AsyncConnection[Any], name: str) -> NamedTemplate:
    """The platform's template of this name, else one that comes with Flux; never a file of this host."""
    known = await _known(conn, name)
    if known is None:
        raise NotFoundError(f"no template {name!r}; there are {', '.join(await template_names(conn))}")
    return known


def given_template(text: str, name: str = "template") -> NamedTemplate:
    """The template that ``text`` (YAML) is, called ``name`` where it names none itself. InputError where it is none."""
    return NamedTemplate(parse_template(text, name), text)


async def template_names(conn: AsyncConnection[Any]) -> list[str]:
    """The platform's own, and those that come with Flux, by name."""
    rows = await (await conn.execute("SELECT name FROM flux.device_templates")).fetchall()
    return sorted({*builtin_template_names(), *(name for (name,) in rows)})


async def _known(conn: AsyncConnection[Any], name: str) -> NamedTemplate | None:
    cursor = await conn.execute("SELECT body FROM flux.device_templates WHERE name = %s", (name,))
    row = await cursor.fetchone()
    if row is not None:
        return NamedTemplate(parse_template(row[0], name), row[0])
    return NamedTemplate(builtin_template(name), None) if name in builtin_template_names() else None


def _from_file(file: Path) -> NamedTemplate | None:
    return NamedTemplate(load_template(file), file.read_text(encoding="utf-8")) if file.is_file() else None


async def template_of(conn: AsyncConnection[Any], device: Device) -> DeviceTemplate:
    """The template that a device names. InputError: it names none; NotFoundError: nobody here knows it."""
    name = device.metadata.template_name
    if name is None:
        key = "template" if device.type is DeviceType.BESS else "register_map"
        raise InputError(f"{device.name}: its metadata names no {key}")
    return (await known_template(conn, name)).template  # a name in the registry is no file of this host


async def matching_devices(conn: AsyncConnection[Any], filter: str) -> list[Device]:
    """The devices that ``type=bess,site=WLCE,model=X`` describes: pairs over columns and metadata, all of which hold.

    InputError for a filter that can't be read; those decommissioned only match ``state=decommissioned``.
    """
    return await list_devices(conn, matching=parse_filter(filter))


def parse_filter(filter: str) -> dict[str, str]:
    """``"type=bess,site=WLCE"`` → ``{"type": "bess", "site": "WLCE"}``."""
    pairs = {}
    for part in filter.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key or not value:
            raise InputError(f"filter {filter!r}: write it like type=bess,site=WLCE; {part!r} is no key=value")
        if key in pairs:
            raise InputError(f"filter {filter!r}: {key} is there twice")
        pairs[key] = value
    for key, allowed in (("type", set(DeviceType)), ("state", set(DeviceState)), ("active", {"true", "false"})):
        if key in pairs and pairs[key] not in allowed:
            raise InputError(f"filter {filter!r}: {key} is one of {', '.join(sorted(allowed))}")
    return pairs


async def changes_by(
    conn: AsyncConnection[Any], named: NamedTemplate, devices: Sequence[Device]
) -> list[TemplateChange]:
    """What giving the template to these devices would change. InputError when it is for another type of device."""
    new = named.template
    wrong = [device.name for device in devices if device.type is not new.type]
    if wrong:
        raise InputError(f"template {new.name} is for a {new.type}, not for {', '.join(wrong[:5])}")
    return [TemplateChange(device, await _lines(conn, device, new)) for device in devices]


async def _lines(conn: AsyncConnection[Any], device: Device, new: DeviceTemplate) -> tuple[str, ...]:
    old_name = device.metadata.template_name
    lines = [] if old_name == new.name else [f"template {old_name or '–'} → {new.name}"]
    if old_name is None:
        return (*lines, f"{len(new.registers)} registers")
    try:
        old = await template_of(conn, device)
    except NotFoundError:
        return (*lines, f"{len(new.registers)} registers; those of {old_name} are not known here")
    before = {register.name: register for register in old.registers}
    after = {register.name: register for register in new.registers}
    lines += [f"- {name} at {before[name].address}" for name in before if name not in after]
    lines += [f"+ {name} at {after[name].address}" for name in after if name not in before]
    for name in before.keys() & after.keys():
        was, becomes = before[name].model_dump(mode="json"), after[name].model_dump(mode="json")
        parts = [f"{key} {was[key]} → {becomes[key]}" for key in was if was[key] != becomes[key]]
        lines += [f"~ {name}: {', '.join(parts)}"] if parts else []
    if not lines and old.content_hash != new.content_hash:
        lines.append("how it is polled or commanded")
    return tuple(lines)


async def apply_template(
    conn: AsyncConnection[Any], named: NamedTemplate, devices: Sequence[Device], *, actor: str
) -> list[Device]:
    """Give the template to all of these devices, or after any error to none; returns them as they are then.

    ConflictError when somebody changed one of them since it was read. Running pollers take the registers up.
    """
    key = "template" if named.template.type is DeviceType.BESS else "register_map"
    async with acting(conn, actor):
        if named.text is not None:
            digest = hashlib.sha256(named.text.encode()).hexdigest()
            await conn.execute(
                """INSERT INTO flux.device_templates (name, hash, body) VALUES (%s, %s, %s)
                   ON CONFLICT (name) DO UPDATE SET hash = excluded.hash, body = excluded.body
                   WHERE device_templates.hash <> excluded.hash""",
                (named.template.name, digest, named.text),
            )
        return [
            await set_metadata(
                conn,
                DeviceId(device.id),
                {key: named.template.name},
                actor=actor,
                unchanged_since=device.updated_at,
            )
            for device in devices
        ]
