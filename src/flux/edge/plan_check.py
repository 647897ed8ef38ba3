"""Whether a plan and the devices of its site fit: every name known, every battery one that silence makes safe."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from flux.config import YamlDocument
from flux.control.plan import ControllerPlan, section_of
from flux.devices.client import ConnectionPool
from flux.devices.driver import driver_for
from flux.devices.template import DeviceTemplate
from flux.edge.link import RegistrySnapshot
from flux.edge.templates import TemplateShelf
from flux.edge.ticks import Clock, system_clock
from flux.model import Device, DeviceType, InputError, NotFoundError

Problem = tuple[tuple[str | int, ...], str]
"""Where in the plan, and what is wrong."""

_STEPS_PER_TIMEOUT = 2


def sort_devices(
    snapshot: RegistrySnapshot, shelf: TemplateShelf, clock: Clock
) -> tuple[dict[UUID, tuple[Device, DeviceTemplate]], dict[str, str]]:
    """The devices that can be talked to, by id, and for the names of the others why not."""
    usable: dict[UUID, tuple[Device, DeviceTemplate]] = {}
    unusable: dict[str, str] = {}
    for device in snapshot.devices:
        try:
            template = shelf.template_of(device, snapshot.templates)
            driver_for(device, template, ConnectionPool(), clock)  # what it refuses, it refuses here
            usable[device.id] = (device, template)
        except (InputError, NotFoundError) as error:
            unusable[device.name] = str(error)
    return usable, unusable


def check_devices(
    document: YamlDocument, plan: ControllerPlan, site: str, snapshot: RegistrySnapshot, shelf: TemplateShelf
) -> None:
    """InputError, a line for each problem, when ``plan`` of ``document`` does not fit the registry's devices."""
    usable, unusable = sort_devices(snapshot, shelf, system_clock)
    templates = {device.name: template for device, template in usable.values()}
    at = section_of(document)
    problems = problems_of_plan(plan, site, snapshot.devices, templates, unusable)
    if lines := [str(document.error((*at, *path), text)) for path, text in problems]:
        raise InputError("\n".join(lines))


def problems_of_plan(
    plan: ControllerPlan,
    site: str,
    devices: Sequence[Device],
    templates: Mapping[str, DeviceTemplate],
    unusable: Mapping[str, str],
) -> Iterator[Problem]:
    """What is wrong with ``plan`` for these devices.

    By device name: ``templates``, or in ``unusable`` the reason for which a device cannot be talked to.
    """
    known = {device.name: device for device in devices}
    for path, name, wanted in _names(plan):
        device = known.get(name)
        if device is None:
            yield path, f"{name!r} is no device of site {site}{_nearest(name, known)}"
        elif device.type is not wanted:
            yield path, f"{name!r} is a {device.type}, a {wanted} is needed here"
        elif name in unusable:
            yield path, f"{name!r} cannot be used: {unusable[name]}"
        else:
            for message in (
                _unfit(plan, templates[name], name) if wanted is DeviceType.BESS else _unread(templates[name], name)
            ):
                yield path, message


def _names(plan: ControllerPlan) -> Iterator[tuple[tuple[str | int, ...], str, DeviceType]]:
    yield ("site_meter",), plan.site_meter, DeviceType.METER
    for number, name in enumerate(plan.bess):
        yield ("bess", number), name, DeviceType.BESS
    for number, name in enumerate(plan.bess_meter):
        yield ("bess_meter", number), name, DeviceType.METER


def _nearest(name: str, known: Mapping[str, Device]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return (
        f"; it has {', '.join(sorted(known))}"
        if known
        else "; it has no devices yet: `flux devices add` registers them"
    )


def _unfit(plan: ControllerPlan, template: DeviceTemplate, name: str) -> Iterator[str]:
    control = template.control
    if control is None:
        yield f"{name!r} cannot be controlled: its template {template.name} has no set-point"
    elif control.timeout is None and plan.without_timeout is None:
        yield (
            f"{name!r} may not be controlled: its template {template.name} has no command timeout, so the battery "
            "would go on for ever when nobody commands it; `without_timeout: accepted` in the plan allows it"
        )
    elif control.timeout is not None:
        timeout = timedelta(seconds=control.timeout.value)
        if plan.interval * _STEPS_PER_TIMEOUT > timeout:
            yield (
                f"{name!r} goes to its safe state {control.timeout.value:g} s after a command; an interval of "
                f"{plan.interval.total_seconds():g} s is too long for that, use at most "
                f"{control.timeout.value / _STEPS_PER_TIMEOUT:g}s"
            )


def _unread(template: DeviceTemplate, name: str) -> Iterator[str]:
    if template.find("power_total_active") is None:
        yield f"{name!r} does not measure power: its template {template.name} has no power_total_active"
