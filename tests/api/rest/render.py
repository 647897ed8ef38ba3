"""The grammar backwards: a query as it could be written. What is read back must be the same."""

import re
from collections.abc import Iterator
from urllib.parse import quote

from flux.api.rest.syntax import Column, Condition, Embed, Field, Filter, Is, Logic, Order, Path, Query, Step

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_$]+\Z")
_PLAIN_VALUE = re.compile(r"[^\s,()\"{}\\]+\Z")


def query_string(query: Query) -> bytes:
    """Percent-encoded, as clients send it."""
    return "&".join(f"{quote(key)}={quote(value)}" for key, value in _pairs(query)).encode()


def _pairs(query: Query) -> Iterator[tuple[str, str]]:
    yield "select", ",".join(map(_item, query.select))
    for path, condition in query.where:
        if isinstance(condition, Filter):
            yield _path(path, _field(condition.field)), operation(condition, in_logic=False)
        else:
            yield _path(path, f"{'not.' if condition.negated else ''}{condition.junction}"), _terms(condition)
    for path, terms in query.order:
        yield _path(path, "order"), ",".join(map(_order, terms))
    for path, limit in query.limits:
        yield _path(path, "limit"), str(limit)
    for path, offset in query.offsets:
        yield _path(path, "offset"), str(offset)
    for key, names in (("columns", query.columns), ("on_conflict", query.on_conflict)):
        if names is not None:
            yield key, ",".join(map(name, names))


def name(text: str) -> str:
    return text if _PLAIN_NAME.match(text) else quoted(text)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _path(path: Path, last: str) -> str:
    return ".".join([*map(name, path), last])


def _field(field: Field) -> str:
    return name(field.name) + "".join(map(_step, field.path))


def _step(step: Step) -> str:
    key = str(step.key) if isinstance(step.key, int) else quoted(step.key)
    return ("->>" if step.as_text else "->") + key


def _item(item: Column | Embed) -> str:
    if isinstance(item, Embed):
        marks = "".join(f"!{mark}" for mark in (item.hint and name(item.hint), item.join) if mark)
        start = "..." if item.spread else (f"{name(item.alias)}:" if item.alias is not None else "")
        return f"{start}{name(item.relation)}{marks}({','.join(map(_item, item.select))})"
    if item.field == Field("*"):
        return "*"
    alias = f"{name(item.alias)}:" if item.alias is not None else ""
    cast = f"::{item.cast}" if item.cast is not None else ""
    aggregate = f".{item.aggregate}()" if item.aggregate is not None else ""
    after = f"::{item.aggregate_cast}" if item.aggregate_cast is not None else ""
    return f"{alias}{_field(item.field)}{cast}{aggregate}{after}"


def _terms(logic: Logic) -> str:
    return f"({','.join(map(_term, logic.terms))})"


def _term(condition: Condition) -> str:
    if isinstance(condition, Filter):
        return f"{_field(condition.field)}.{operation(condition, in_logic=True)}"
    return f"{'not.' if condition.negated else ''}{condition.junction}{_terms(condition)}"


def operation(condition: Filter, *, in_logic: bool) -> str:
    """What stands behind the field."""
    extra = condition.quantifier or condition.language
    start = f"{'not.' if condition.negated else ''}{condition.operator}{f'({extra})' if extra else ''}."
    value = condition.value
    if isinstance(value, tuple):
        return f"{start}({','.join(_element(part) for part in value)})"
    if isinstance(value, Is):
        return start + value.value
    return start + (_element(value) if in_logic else value)


def _element(text: str) -> str:
    return text if _PLAIN_VALUE.match(text) else quoted(text)


def _order(term: Order) -> str:
    field = _field(term.field)
    text = f"{name(term.relation)}({field})" if term.relation is not None else field
    direction = "" if term.descending is None else (".desc" if term.descending else ".asc")
    return f"{text}{direction}{f'.{term.nulls}' if term.nulls else ''}"
