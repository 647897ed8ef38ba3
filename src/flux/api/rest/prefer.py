"""The ``Prefer`` header (RFC 7240) as PostgREST's clients send it: what a request wants beside its rows.

::

    parse_prefer(["return=representation, count=exact", "tx=rollback"])
    →  Preferences(returning=REPRESENTATION, count=EXACT, tx=ROLLBACK)

Of a preference given twice the first counts. What is not known is kept in ``invalid``: ``handling=strict`` refuses it,
otherwise it is passed over.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from zoneinfo import ZoneInfo

_MOST = 2**63 - 1


class Return(StrEnum):
    """What of the written rows comes back."""

    MINIMAL = "minimal"
    HEADERS_ONLY = "headers-only"
    """Nothing but the ``Location`` of a single new row."""
    REPRESENTATION = "representation"


class Count(StrEnum):
    """How the rows are counted that a request matches."""

    EXACT = "exact"
    PLANNED = "planned"
    ESTIMATED = "estimated"


class Resolution(StrEnum):
    """What becomes of a row whose key is there already."""

    MERGE = "merge-duplicates"
    IGNORE = "ignore-duplicates"


class Missing(StrEnum):
    """What a column gets that a row of the body does not name."""

    DEFAULT = "default"
    NULL = "null"


class Tx(StrEnum):
    """How the transaction ends."""

    COMMIT = "commit"
    ROLLBACK = "rollback"


class Handling(StrEnum):
    """What becomes of preferences that are not known, and whether ``max-affected`` holds."""

    STRICT = "strict"
    LENIENT = "lenient"


@dataclass(frozen=True, slots=True)
class Preferences:
    """What a request prefers; None: not said."""

    resolution: Resolution | None = None
    missing: Missing | None = None
    returning: Return | None = None
    count: Count | None = None
    tx: Tx | None = None
    handling: Handling | None = None
    timezone: str | None = None
    """An IANA name in which times are written, and read where they name no zone."""
    max_affected: int | None = None
    """Holds with ``handling=strict`` only."""
    invalid: tuple[str, ...] = ()
    """As sent."""

    @property
    def strict(self) -> bool:
        return self.handling is Handling.STRICT

    @property
    def counted(self) -> bool:
        """Whether ``Content-Range`` of a write says how many rows there were: an estimate of those is exact."""
        return self.count in {Count.EXACT, Count.ESTIMATED}

    def applied(self, *, without: Iterable[str] = ()) -> str | None:
        """The value of ``Preference-Applied``; None: nothing to say. ``without``: fields without effect."""
        dropped = {*without} | (set() if self.strict else {"max_affected"})
        said = [
            f"{name}={value}"
            for field, name in _FIELDS.items()
            if field not in dropped and (value := getattr(self, field)) is not None
        ]
        return ", ".join(said) or None


_FIELDS = {
    "resolution": "resolution",
    "missing": "missing",
    "returning": "return",
    "count": "count",
    "tx": "tx",
    "handling": "handling",
    "timezone": "timezone",
    "max_affected": "max-affected",
}
"""Each field with its name in the header, in the order in which they are answered."""
_CHOICES: dict[str, type[StrEnum]] = {
    "resolution": Resolution,
    "missing": Missing,
    "return": Return,
    "count": Count,
    "tx": Tx,
    "handling": Handling,
}
_FIELD_OF = {name: field for field, name in _FIELDS.items()}


def parse_prefer(headers: Iterable[str]) -> Preferences:
    """The preferences of all ``Prefer`` headers of a request, in order."""
    known: dict[str, object] = {}
    invalid = []
    for header in headers:
        for said in header.split(","):
            preference = said.strip()
            if not preference:
                continue
            name, _, text = preference.partition("=")
            value = _value(name, text)
            if value is None:
                invalid.append(preference)
            else:
                known.setdefault(_FIELD_OF[name], value)
    return Preferences(**known, invalid=tuple(invalid))  # type: ignore[arg-type]  # each value is of its field's type


def _value(name: str, text: str) -> object:
    """None: no such preference, or no value of it."""
    if name in _CHOICES:
        return next((choice for choice in _CHOICES[name] if choice.value == text), None)
    if name == "max-affected":
        # (digits only: int() takes more, such as "1_0")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= _MOST else None
    if name == "timezone":
        return text if _is_timezone(text) else None
    return None


def _is_timezone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # no such name, a path, a folder of names
        return False
    return True
