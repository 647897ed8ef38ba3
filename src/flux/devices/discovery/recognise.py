"""What one unit is: by what it says of itself, by the SunSpec marker, by the fingerprints of the templates."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from flux.devices.codec import Value, decode, plan_blocks
from flux.devices.discovery.asking import Asking
from flux.devices.discovery.found import FoundUnit, RecognisedBy
from flux.devices.discovery.sunspec import read_sunspec
from flux.devices.registers import Function, Register
from flux.devices.template import DeviceTemplate
from flux.devices.transport import DeviceFaultError, DeviceTimeoutError

_VENDOR, _PRODUCT, _REVISION, _MODEL = 0, 1, 2, 4
_ABOUT_ITSELF = ("serial_number", "firmware_version")


async def examine(asking: Asking, unit: int, templates: Sequence[DeviceTemplate]) -> FoundUnit | None:
    """The unit, or None when nobody of that number answers.

    Raises :class:`DeviceError` when the port is not one of a Modbus device: it hangs up, or talks something else.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    objects: Mapping[int, str] = {}
    try:
        objects = await asking.identification(unit)
    except DeviceFaultError as error:
        if error.unit_is_silent:
            return None
    except DeviceTimeoutError:  # some pass over questions that they don't know
        began = loop.time()
        if not await _answers(asking, unit, templates):
            return None
    found = FoundUnit(asking.host, asking.port, unit, round((loop.time() - began) * 1000, 1))
    try:
        return await _recognise(asking, found, objects, templates)
    except (DeviceFaultError, DeviceTimeoutError):
        return found  # it is there; what it is could not be read to the end


async def _answers(asking: Asking, unit: int, templates: Sequence[DeviceTemplate]) -> bool:
    """Whether a unit that said nothing of its identity has any word for a read: a refusal is one, too."""
    address = templates[0].readable[0].address if templates else 0
    function = templates[0].function if templates else Function.HOLDING
    try:
        await asking.registers(unit, address, 1, function)
    except DeviceFaultError as error:
        return not error.unit_is_silent
    except DeviceTimeoutError:
        return False
    return True


async def _recognise(
    asking: Asking, found: FoundUnit, objects: Mapping[int, str], templates: Sequence[DeviceTemplate]
) -> FoundUnit:
    if objects:
        found = replace(
            found,
            recognised_by=RecognisedBy.IDENTIFICATION,
            manufacturer=objects.get(_VENDOR),
            model=objects.get(_MODEL) or objects.get(_PRODUCT),
            firmware_version=objects.get(_REVISION),
        )
        named = [template for template in templates if _is_named(template, objects)]
        if named:
            return await _with_template(asking, found, named[0])
    sunspec = await read_sunspec(asking, found.unit)
    if sunspec is not None:
        found = replace(
            found,
            recognised_by=found.recognised_by or RecognisedBy.SUNSPEC,
            manufacturer=found.manufacturer or sunspec.manufacturer,
            model=found.model or sunspec.model,
            firmware_version=found.firmware_version or sunspec.firmware_version,
            serial_number=sunspec.serial_number,
            type=sunspec.type,
        )
    # the template with the most to say first: of two that fit, it is the surer one
    for template in sorted(templates, key=lambda one: -len(one.fingerprint)):
        if template.fingerprint and await _fits(asking, found.unit, template):
            by = found.recognised_by or RecognisedBy.FINGERPRINT
            return await _with_template(asking, replace(found, recognised_by=by), template)
    return found


def _is_named(template: DeviceTemplate, objects: Mapping[int, str]) -> bool:
    """Whether a device's own words mean this template: its maker, and its model or the template's name."""
    said = {objects[number].casefold() for number in (_PRODUCT, _MODEL) if number in objects}
    vendor = objects.get(_VENDOR, "").casefold()
    models = {template.name.casefold(), *((template.model.casefold(),) if template.model else ())}
    return vendor == template.manufacturer.casefold() and bool(said & models)


async def _with_template(asking: Asking, found: FoundUnit, template: DeviceTemplate) -> FoundUnit:
    """What the template adds, and what its registers say: serial number and firmware."""
    about = [register for name in _ABOUT_ITSELF if (register := template.find(name)) and register.readable]
    values: dict[str, Value | None] = {}
    for register in about:
        try:
            values |= await _values(asking, found.unit, template, [register])
        except DeviceFaultError:
            continue
    texts = {name: str(value) for name, value in values.items() if value not in (None, "")}
    return replace(
        found,
        template=template.name,
        type=template.type,
        manufacturer=found.manufacturer or template.manufacturer,
        model=found.model or template.model,
        serial_number=texts.get("serial_number") or found.serial_number,
        firmware_version=texts.get("firmware_version") or found.firmware_version,
    )


async def _fits(asking: Asking, unit: int, template: DeviceTemplate) -> bool:
    """Whether every register of the fingerprint is there and holds what it may; stops at the first that does not."""
    for check in template.fingerprint:
        register = template.register(check.register_name)
        try:
            values = await _values(asking, unit, template, [register])
        except DeviceFaultError as error:
            if error.unit_is_silent:
                raise
            return False
        if not check.fits(values[register.name]):
            return False
    return True


async def _values(
    asking: Asking, unit: int, template: DeviceTemplate, registers: Sequence[Register]
) -> dict[str, Value | None]:
    values: dict[str, Value | None] = {}
    for block in plan_blocks(registers, template.max_block_words, 0):
        words = await asking.registers(unit, block.address, block.count, template.function)
        for register in block.registers:
            start = register.address - block.address
            values[register.name] = decode(register, words[start : start + register.words])
    return values
