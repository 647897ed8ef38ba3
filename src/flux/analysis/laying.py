"""Powers over time laid on a timeline, as energies of its steps."""

import numpy as np

from flux.analysis.flows import Series
from flux.analysis.timeline import Timeline, to_us
from flux.devices.simulator.profiles import Profile

_US_PER_HOUR = 3_600_000_000


def energies_on(timeline: Timeline, profile: Profile) -> Series:
    """kWh of each step: the profile's stretches of equal power, summed up exactly."""
    step_us = to_us(timeline.start + timeline.step) - to_us(timeline.start)
    energies, start = np.zeros(timeline.count), to_us(timeline.start)
    for number in range(timeline.count):
        now, end = start + number * step_us, start + (number + 1) * step_us
        while now < end:
            power_kw, until = profile.at(now)
            until = min(until, end)
            energies[number] += power_kw * (until - now) / _US_PER_HOUR
            now = until
    return energies
