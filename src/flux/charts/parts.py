"""What every picture is made of: the page, its inks, and scales with round marks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10

WIDTH, LEFT, RIGHT, TOP = 980, 64, 28, 54
INK, GRID = "#24292f", "#d0d7de"
COLOURS = ("#0969da", "#cf222e", "#1a7f37", "#8250df", "#bf8700", "#57606a", "#116329", "#bc4c00")


@dataclass(frozen=True, slots=True)
class Scale:
    """Numbers along ``length`` pixels, between round marks."""

    low: float
    high: float
    step: float
    length: int

    @classmethod
    def of(cls, values: Iterable[float], length: int, *, mark_every: int = 40) -> "Scale":
        """Round marks about ``mark_every`` pixels apart, around all values and 0."""
        known = [*values, 0.0]
        low, high = min(known), max(known)
        rough = max(high - low, 1e-6) / max(2, length // mark_every)
        unit = 10.0 ** floor(log10(rough))
        step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)
        top = -floor(-high / step) * step
        bottom = floor(low / step) * step
        return cls(bottom, top if top > bottom else bottom + step, step, length)

    def at(self, value: float) -> float:
        """Pixels from the low end."""
        return round(self.length * (value - self.low) / (self.high - self.low), 1)

    def marks(self) -> list[float]:
        count = round((self.high - self.low) / self.step)
        return [round(self.low + number * self.step, 9) for number in range(count + 1)]


def page(title: str, height: int, parts: Sequence[str]) -> str:
    """The whole SVG."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">'
    )
    name = f'<title>{escape(title)}</title><text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>', name, *parts, "</svg>"]) + "\n"


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


def rule(path: str, *, strong: bool = False) -> str:
    """A line of the grid."""
    return f'<path d="{path}" stroke="{GRID}" stroke-width="{1.4 if strong else 0.7}"/>'
