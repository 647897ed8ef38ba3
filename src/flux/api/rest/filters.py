"""Conditions as SQL: what stands in WHERE. Columns are those of the catalogue, every value is a bind parameter.

::

    where(table, alias, [Filter(Field("site"), Operator.EQ, "WLCE")], parameters)   →  t."site" = $1

A value is bound as text of no type: PostgreSQL reads it as the column's type, and refuses what is none of it (22P02).
"""

from collections.abc import Callable, Iterable

from flux.api.rest.catalogue import Table
from flux.api.rest.sqltext import Fragment, Parameters, array_literal, joined, name, sql
from flux.api.rest.syntax import Condition, Field, Filter, Is, Junction, Operator

_PLAIN: dict[Operator, Fragment] = {
    Operator.EQ: sql("="),
    Operator.NEQ: sql("<>"),
    Operator.GT: sql(">"),
    Operator.GTE: sql(">="),
    Operator.LT: sql("<"),
    Operator.LTE: sql("<="),
    Operator.LIKE: sql("LIKE"),
    Operator.ILIKE: sql("ILIKE"),
    Operator.MATCH: sql("~"),
    Operator.IMATCH: sql("~*"),
    Operator.ISDISTINCT: sql("IS DISTINCT FROM"),
    Operator.CS: sql("@>"),
    Operator.CD: sql("<@"),
    Operator.OV: sql("&&"),
    Operator.SL: sql("<<"),
    Operator.SR: sql(">>"),
    Operator.NXR: sql("&<"),
    Operator.NXL: sql("&>"),
    Operator.ADJ: sql("-|-"),
}
_SEARCH: dict[Operator, Fragment] = {
    Operator.FTS: sql("to_tsquery"),
    Operator.PLFTS: sql("plainto_tsquery"),
    Operator.PHFTS: sql("phraseto_tsquery"),
    Operator.WFTS: sql("websearch_to_tsquery"),
}
_IS: dict[Is, Fragment] = {
    Is.NULL: sql("NULL"),
    Is.NOT_NULL: sql("NOT NULL"),
    Is.TRUE: sql("TRUE"),
    Is.FALSE: sql("FALSE"),
    Is.UNKNOWN: sql("UNKNOWN"),
}

Special = Callable[[Filter], Fragment | None]
"""Turns a filter into SQL in its own way, or leaves it (None): those on embedded resources."""


def field_sql(table: Table, alias: Fragment, field: Field, parameters: Parameters) -> Fragment:
    """A column, or what its arrows lead to. ApiError 42703 where ``table`` has no such column."""
    column = table.column(field.name)
    value = sql("{}.{}", alias, name(column.name))
    if not field.path:
        return value
    if not column.is_json:
        value = sql("to_jsonb({})", value)
    for step in field.path:
        arrow = sql("->>") if step.as_text else sql("->")
        key = parameters.bind(str(step.key))
        value = sql("{}{}{}::int" if isinstance(step.key, int) else "{}{}{}::text", value, arrow, key)
    return sql("({})", value)


def where(
    table: Table,
    alias: Fragment,
    conditions: Iterable[Condition],
    parameters: Parameters,
    special: Special | None = None,
) -> Fragment:
    """All of the conditions, for a row of ``table`` called ``alias``; TRUE where there are none."""
    parts = [_condition(table, alias, condition, parameters, special) for condition in conditions]
    return joined(" AND ", parts) if parts else sql("TRUE")


def _condition(
    table: Table, alias: Fragment, condition: Condition, parameters: Parameters, special: Special | None
) -> Fragment:
    if isinstance(condition, Filter):
        return (special(condition) if special else None) or filter_sql(table, alias, condition, parameters)
    parts = [_condition(table, alias, term, parameters, special) for term in condition.terms]
    joint = joined(" AND " if condition.junction is Junction.AND else " OR ", parts)
    return sql("NOT ({})" if condition.negated else "({})", joint)


def filter_sql(table: Table, alias: Fragment, condition: Filter, parameters: Parameters) -> Fragment:
    """One comparison."""
    if condition.operator in _SEARCH:
        comparison = _search(table, alias, condition, parameters)
    else:
        left = field_sql(table, alias, condition.field, parameters)
        comparison = sql("{} {}", left, _comparison(condition, parameters))
    return sql("NOT ({})", comparison) if condition.negated else comparison


def _comparison(condition: Filter, parameters: Parameters) -> Fragment:
    value = condition.value
    if isinstance(value, Is):
        return sql("IS {}", _IS[value])
    if isinstance(value, tuple):
        # one parameter whatever their number: the statement is prepared once (and "in.()" is of nothing)
        return sql("= ANY ({})", parameters.bind(array_literal(() if value == ("",) else value)))
    if condition.operator in {Operator.LIKE, Operator.ILIKE}:
        value = value.replace("*", "%")
    bound = parameters.bind(value)
    if condition.quantifier is not None:
        bound = sql("ANY ({})" if condition.quantifier == "any" else "ALL ({})", bound)
    return sql("{} {}", _PLAIN[condition.operator], bound)


def _search(table: Table, alias: Fragment, condition: Filter, parameters: Parameters) -> Fragment:
    value = field_sql(table, alias, condition.field, parameters)
    language = sql("{}, ", parameters.bind(condition.language)) if condition.language is not None else sql("")
    searched = value
    if condition.field.path or table.column(condition.field.name).base_type != "tsvector":
        searched = sql("to_tsvector({}{})", language, value)
    question = parameters.bind(str(condition.value))
    return sql("{} @@ {}({}{})", searched, _SEARCH[condition.operator], language, question)
