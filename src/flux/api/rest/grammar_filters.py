"""The part of the grammar that compares: operators with their values, and logic trees.

::

    gte.5      not.in.(a,"b,c")      like(any).{WLCE*,HMCE*}      (state.eq.failed,not.and(a.gt.1,b.is.null))
"""

import re
from dataclasses import dataclass

from flux.api.rest.errors import ApiError
from flux.api.rest.grammar_select import read_field
from flux.api.rest.scanner import Scanner, unescaped
from flux.api.rest.syntax import (
    QUANTIFIED,
    TEXT_SEARCH,
    Condition,
    Field,
    Filter,
    Is,
    Junction,
    Logic,
    Operator,
    Quantifier,
)

DEEPEST = 16
"""Logic trees inside one another."""
_OPERATORS = {operator.value: operator for operator in Operator}
_OPERATOR = re.compile(r"([a-z]+)(?:\(([^()]*)\))?\.")
_IS = re.compile(r"(not_null|null|true|false|unknown)(?=[ \t]*(?:[,)]|\Z))", re.IGNORECASE)
_LANGUAGE = re.compile(r"[\w $]+\Z")
_ELEMENT = re.compile(r"[^,)]*")
_QUOTED_ELEMENT = re.compile(r'"((?:[^"\\]|\\.)*)"(?=[,)]|\Z)', re.DOTALL)
_ARRAY = re.compile(r"\{[^{}]*\}")
_TREE = re.compile(r"(not\.)?(and|or)[ \t]*(?=\()")
_OPEN = "operator (eq, gt, ...)"


@dataclass(frozen=True, slots=True)
class Operation:
    """A filter whose field is not known yet."""

    operator: Operator
    value: str | tuple[str, ...] | Is
    negated: bool
    quantifier: Quantifier | None
    language: str | None

    def on(self, field: Field) -> Filter:
        return Filter(field, self.operator, self.value, self.negated, self.quantifier, self.language)


def read_operation(scanner: Scanner, *, in_logic: bool) -> Operation:
    """``[not.]operator.value``. ``in_logic``: the value ends at a comma or bracket that is not quoted."""
    negated = scanner.accept("not.")
    start = scanner.at
    found = scanner.match(_OPERATOR)
    operator = _OPERATORS.get(found[1]) if found else None
    if found is None or operator is None:
        scanner.at = start
        raise scanner.error(_OPEN if negated else f'"not" or {_OPEN}')
    quantifier, language = _parameter(scanner, operator, found[2], start)
    if operator is Operator.IN:
        return Operation(operator, _read_list(scanner), negated, None, None)
    if operator is Operator.IS:
        return Operation(operator, _read_is(scanner), negated, None, None)
    return Operation(operator, _read_value(scanner, in_logic), negated, quantifier, language)


def _parameter(
    scanner: Scanner, operator: Operator, said: str | None, start: int
) -> tuple[Quantifier | None, str | None]:
    """What stands in brackets behind an operator: a quantifier, or the language of a text search."""
    if said is None:
        return None, None
    if operator in QUANTIFIED and said in {"any", "all"}:
        return Quantifier(said), None
    if operator in TEXT_SEARCH and _LANGUAGE.match(said):
        return None, said.strip()
    scanner.at = start + len(operator.value)
    raise scanner.error(_OPEN)


def _read_list(scanner: Scanner) -> tuple[str, ...]:
    scanner.skip_blank()
    scanner.expect("(")
    scanner.skip_blank()
    values = [_read_element(scanner)]
    while scanner.accept(","):
        values.append(_read_element(scanner))
    scanner.expect(")")
    scanner.skip_blank()
    return tuple(values)


def _read_element(scanner: Scanner) -> str:
    quoted = scanner.match(_QUOTED_ELEMENT)
    if quoted is not None:
        return unescaped(quoted[1])
    plain = scanner.match(_ELEMENT)
    return plain[0] if plain else ""


def _read_is(scanner: Scanner) -> Is:
    found = scanner.match(_IS)
    if found is None:
        raise scanner.error("isVal: (null, not_null, true, false, unknown)")
    return Is(found[1].lower())


def _read_value(scanner: Scanner, in_logic: bool) -> str:
    if not in_logic:
        text = scanner.text[scanner.at :]
        scanner.at = len(scanner.text)
        return text
    array = scanner.match(_ARRAY) if scanner.text.startswith("{", scanner.at) else None
    return array[0] if array else _read_element(scanner)


def read_terms(scanner: Scanner, depth: int) -> tuple[Condition, ...]:
    """``(term,term)``: what ``and=`` and ``or=`` say."""
    if depth > DEEPEST:
        raise scanner.error(f"at most {DEEPEST} logic trees inside one another")
    scanner.skip_blank()
    scanner.expect("(")
    terms = []
    while True:
        scanner.skip_blank()
        terms.append(_read_term(scanner, depth))
        scanner.skip_blank()
        if not scanner.accept(","):
            break
    if not scanner.accept(")"):
        raise scanner.error('"," or ")"')
    scanner.skip_blank()
    return tuple(terms)


def _read_term(scanner: Scanner, depth: int) -> Condition:
    tree = scanner.match(_TREE)
    if tree is not None:
        return Logic(Junction(tree[2]), read_terms(scanner, depth + 1), negated=tree[1] is not None)
    start = scanner.at
    try:
        field = read_field(scanner)
    except ApiError:
        scanner.at = start
        expecting = "field name (* or [a..z0..9_$]), negation operator (not) or logic operator (and, or)"
        raise scanner.error(expecting) from None
    if not scanner.accept("."):
        raise scanner.error("delimiter (.)")
    return read_operation(scanner, in_logic=True).on(field)
