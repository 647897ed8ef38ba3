"""What a query string of ``/rest/v1`` says, as frozen values; :mod:`flux.api.rest.grammar` reads it.

::

    select=id,site(name)&state=eq.active&order=name
    →  Query(select=(Column(Field("id")), Embed("site", select=(Column(Field("name")),))),
             where=(((), Filter(Field("state"), Operator.EQ, "active")),),
             order=(((), (Order(Field("name")),)),))

A path is the names of embedded resources from the root down; ``()`` is the root itself.
"""

from dataclasses import dataclass
from enum import StrEnum

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One arrow into JSON: ``->key`` (JSON) or ``->>key`` (text); an ``int`` is a place in an array."""

    key: str | int
    as_text: bool = False


@dataclass(frozen=True, slots=True)
class Field:
    """A column, or what a path into it leads to."""

    name: str
    path: tuple[Step, ...] = ()


class Aggregate(StrEnum):
    """Functions over all rows of a group."""

    SUM = "sum"
    AVG = "avg"
    COUNT = "count"
    MIN = "min"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the answer; the field named ``*`` is all of them (with ``count``: the row itself)."""

    field: Field
    alias: str | None = None
    cast: str | None = None
    aggregate: Aggregate | None = None
    aggregate_cast: str | None = None


class Join(StrEnum):
    """Whether a row without anything embedded is left out."""

    LEFT = "left"
    INNER = "inner"


@dataclass(frozen=True, slots=True)
class Embed:
    """A related resource inside of each row; ``spread``: its columns become the row's own."""

    relation: str
    select: tuple["Column | Embed", ...] = ()
    alias: str | None = None
    hint: str | None = None
    join: Join | None = None
    spread: bool = False

    @property
    def name(self) -> str:
        """What filters, orders and limits call it."""
        return self.alias or self.relation


class Operator(StrEnum):
    """What stands between a column and a value, as it is written."""

    EQ = "eq"
    NEQ = "neq"
    GT = "gt"
    GTE = "gte"
    LT = "lt"
    LTE = "lte"
    LIKE = "like"
    ILIKE = "ilike"
    MATCH = "match"
    IMATCH = "imatch"
    IN = "in"
    IS = "is"
    ISDISTINCT = "isdistinct"
    CS = "cs"
    CD = "cd"
    OV = "ov"
    SL = "sl"
    SR = "sr"
    NXR = "nxr"
    NXL = "nxl"
    ADJ = "adj"
    FTS = "fts"
    PLFTS = "plfts"
    PHFTS = "phfts"
    WFTS = "wfts"


QUANTIFIED = frozenset(
    {
        Operator.EQ,
        Operator.GT,
        Operator.GTE,
        Operator.LT,
        Operator.LTE,
        Operator.LIKE,
        Operator.ILIKE,
        Operator.MATCH,
        Operator.IMATCH,
    }
)
"""Those that take ``(any)`` and ``(all)``."""
TEXT_SEARCH = frozenset({Operator.FTS, Operator.PLFTS, Operator.PHFTS, Operator.WFTS})


class Quantifier(StrEnum):
    """Of the values of an array."""

    ANY = "any"
    ALL = "all"


class Is(StrEnum):
    """What ``is`` can be compared with."""

    NULL = "null"
    NOT_NULL = "not_null"
    TRUE = "true"
    FALSE = "false"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Filter:
    """``field operator value``. ``value``: a tuple for ``in``, an :class:`Is` for ``is``, otherwise the text."""

    field: Field
    operator: Operator
    value: str | tuple[str, ...] | Is
    negated: bool = False
    quantifier: Quantifier | None = None
    language: str | None = None
    """Of a text search."""


class Junction(StrEnum):
    """How the terms of a logic tree hang together."""

    AND = "and"
    OR = "or"


@dataclass(frozen=True, slots=True)
class Logic:
    """``and(…)``, ``or(…)``, ``not.and(…)``, ``not.or(…)``; it has at least one term."""

    junction: Junction
    terms: tuple["Filter | Logic", ...]
    negated: bool = False


Condition = Filter | Logic


class Nulls(StrEnum):
    """Where rows without a value go."""

    FIRST = "nullsfirst"
    LAST = "nullslast"


@dataclass(frozen=True, slots=True)
class Order:
    """One term of an order; ``relation``: the embedded to-one resource whose column it is."""

    field: Field
    relation: str | None = None
    descending: bool | None = None
    nulls: Nulls | None = None


ALL = (Column(Field("*")),)


@dataclass(frozen=True, slots=True)
class Query:
    """A whole query string. Of repeated keys all conditions hold, the first select and order, and the last limit."""

    select: tuple[Column | Embed, ...] = ALL
    where: tuple[tuple[Path, Condition], ...] = ()
    order: tuple[tuple[Path, tuple[Order, ...]], ...] = ()
    limits: tuple[tuple[Path, int], ...] = ()
    offsets: tuple[tuple[Path, int], ...] = ()
    columns: tuple[str, ...] | None = None
    """Of ``columns=``: what a write takes from its body."""
    on_conflict: tuple[str, ...] | None = None
    arguments: tuple[tuple[str, str], ...] = ()
    """Of a function called by GET: the keys whose values are no filters."""

    def of_root(self) -> tuple[Condition, ...]:
        """The conditions on the rows themselves."""
        return tuple(condition for path, condition in self.where if not path)

    def limit(self, path: Path = ()) -> int | None:
        return next((limit for at, limit in self.limits if at == path), None)

    def offset(self, path: Path = ()) -> int:
        return next((offset for at, offset in self.offsets if at == path), 0)
