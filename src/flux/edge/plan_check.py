"""Whether a plan and the devices of its site fit: every name known, every battery one that silence makes safe."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

from flux.control.plan import ControllerPlan
from flux.devices.template import DeviceTemplate
from flux.model import Device, DeviceType

Problem = tuple[tuple[str | int, ...], str]
"""Where in the plan, and what is wrong."""

_STEPS_PER_TIMEOUT = 2


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
