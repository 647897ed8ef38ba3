"""PostgREST's grammar: a query string in, a :class:`~flux.api.rest.syntax.Query` or error PGRST100 out. Pure.

::

    parse_query(b"or=(state.eq.failed,active.is.false)&limit=5")
    →  Query(where=(((), Logic(OR, (Filter(…), Filter(…)))),), limits=(((), 5),))

Depth and length are bounded: whatever is sent, reading it ends, and its cost grows with its length only.
"""

import re
from urllib.parse import unquote_plus

from flux.api.rest.errors import ApiError
from flux.api.rest.grammar_filters import read_operation, read_terms
from flux.api.rest.grammar_select import read_field, read_json_path, read_path, read_select
from flux.api.rest.scanner import Scanner
from flux.api.rest.syntax import ALL, Condition, Field, Filter, Junction, Logic, Nulls, Order, Path, Query

LONGEST = 65_536
"""Characters of a query string: 1,500 device ids fit into ``in.(…)``."""
MOST_KEYS = 500
_WHOLE_KEYS = {"select", "columns", "on_conflict"}
_DIRECTION = re.compile(r"\.(asc|desc)(?=[., \t]|$)")
_NULLS = re.compile(r"\.(nullsfirst|nullslast)(?=[, \t]|$)")
_NUMBER = re.compile(r"-?[0-9]{1,18}\Z")
_Key = tuple[str, str, str]
"""A key, its last word, and the value."""


def parse_query(raw: bytes, *, function: bool = False) -> Query:
    """Read a query string. ``function``: a key whose value is no filter is an argument, as with ``GET /rpc/…``.

    ApiError 400 (PGRST100) for what the grammar does not know, 416 (PGRST103) for a limit below zero.
    """
    pairs = _pairs(raw)
    last = [(key, key.rpartition(".")[2], value) for key, value in pairs]
    where, arguments = _conditions(last, function)
    return Query(
        select=next((read_select(value) for key, value in pairs if key == "select"), ALL),
        where=where,
        order=_orders(last),
        limits=_ranges(last, "limit"),
        offsets=_ranges(last, "offset"),
        columns=next((_read_names(value, "columns") for key, value in pairs if key == "columns"), None),
        on_conflict=next((_read_names(value, "on_conflict") for key, value in pairs if key == "on_conflict"), None),
        arguments=arguments,
    )


def _pairs(raw: bytes) -> list[tuple[str, str]]:
    """Keys and values, decoded; a key without ``=`` says nothing, as in PostgREST."""
    if len(raw) > LONGEST:
        raise ApiError(414, "PGRST100", f"the query string is longer than {LONGEST} characters")
    parts = [part for part in raw.split(b"&") if b"=" in part]
    if len(parts) > MOST_KEYS:
        raise ApiError(400, "PGRST100", f"the query string has more than {MOST_KEYS} keys")
    return [(_decoded(key), _decoded(value)) for key, _, value in (part.partition(b"=") for part in parts)]


def _decoded(part: bytes) -> str:
    try:
        text = unquote_plus(part.decode("ascii"), errors="strict")
    except UnicodeDecodeError:
        raise ApiError(400, "PGRST100", "the query string is not percent-encoded UTF-8") from None
    if "\0" in text:
        raise ApiError(400, "PGRST100", "the query string has a NUL in it")
    return text


def _conditions(
    keys: list[_Key], function: bool
) -> tuple[tuple[tuple[Path, Condition], ...], tuple[tuple[str, str], ...]]:
    """Filters and logic trees in their order, and the arguments of a function."""
    where: list[tuple[Path, Condition]] = []
    arguments: list[tuple[str, str]] = []
    for key, word, value in keys:
        if word in {"and", "or"}:
            where.append(_read_logic(key, value))
        elif key not in _WHOLE_KEYS and word not in {"order", "limit", "offset"}:
            found = _read_filter(key, value, function)
            if found is None:
                arguments.append((key, value))
            else:
                where.append(found)
    return tuple(where), tuple(arguments)


def _read_filter(key: str, value: str, function: bool) -> tuple[Path, Filter] | None:
    """None: the value is an argument of the function."""
    scanner = Scanner(value, "filter")
    try:
        operation = read_operation(scanner, in_logic=False)
        scanner.end()
    except ApiError:
        if function:
            return None
        raise
    scanner = Scanner(key, "tree path")
    path = read_path(scanner)
    field = Field(path[-1], read_json_path(scanner))
    scanner.end('"->", "->>", delimiter (.) or end of input')
    return path[:-1], operation.on(field)


def _path_of(key: str, what: str) -> Path:
    """All names of a key, the last one included."""
    scanner = Scanner(key, what)
    path = read_path(scanner)
    scanner.end("delimiter (.) or end of input")
    return path


def _read_logic(key: str, value: str) -> tuple[Path, Condition]:
    """``a.b.not.or=(…)``: a tree for the resource ``a.b``."""
    names = _path_of(key, "logic path")
    scanner = Scanner(value, "logic tree")
    terms = read_terms(scanner, depth=1)
    scanner.end()
    path = tuple(name for name in names[:-1] if name != "not")
    return path, Logic(Junction(names[-1]), terms, negated="not" in names[:-1])


def _read_order(key: str, value: str) -> tuple[Path, tuple[Order, ...]]:
    scanner = Scanner(value, "order")
    terms = [_read_order_term(scanner)]
    while scanner.accept(","):
        terms.append(_read_order_term(scanner))
    scanner.end('"asc", "desc", "nullsfirst", "nullslast", "," or end of input')
    return _path_of(key, "tree path")[:-1], tuple(terms)


def _read_order_term(scanner: Scanner) -> Order:
    start = scanner.at
    scanner.skip_blank()
    relation: str | None = scanner.name()
    if scanner.accept("("):
        field = read_field(scanner)
        scanner.expect(")")
    else:
        scanner.at, relation = start, None
        field = read_field(scanner)
    direction = scanner.match(_DIRECTION)
    nulls = scanner.match(_NULLS)
    scanner.skip_blank()
    return Order(field, relation, direction[1] == "desc" if direction else None, Nulls(nulls[1]) if nulls else None)


def _read_names(value: str, what: str) -> tuple[str, ...]:
    scanner = Scanner(value, f"{what} parameter")
    names = []
    while True:
        scanner.skip_blank()
        names.append(scanner.name())
        scanner.skip_blank()
        if not scanner.accept(","):
            scanner.end('"," or end of input')
            return tuple(dict.fromkeys(names))


def _orders(keys: list[_Key]) -> tuple[tuple[Path, tuple[Order, ...]], ...]:
    """The first order of each resource."""
    found: dict[Path, tuple[Order, ...]] = {}
    for key, word, value in keys:
        if word == "order":
            path, terms = _read_order(key, value)
            found.setdefault(path, terms)
    return tuple(found.items())


def _ranges(keys: list[_Key], word: str) -> tuple[tuple[Path, int], ...]:
    """The last limit (or offset) of each resource."""
    found: dict[Path, int] = {}
    for key, last, value in keys:
        if last != word:
            continue
        if not _NUMBER.match(value):
            scanner = Scanner(value, word)
            raise scanner.error("a whole number")
        if value.startswith("-"):
            details = f"{word.capitalize()} should be greater than or equal to zero."
            raise ApiError(416, "PGRST103", "Requested range not satisfiable", details)
        found[_path_of(key, "tree path")[:-1]] = int(value)
    return tuple(found.items())
