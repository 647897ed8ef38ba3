"""SQL that is put together from parts, none of which can be what a client sent.

A :data:`Fragment` is made in three ways only: from a template of this program (:func:`sql`), from an identifier,
quoted by psycopg (:func:`name`), and from a bind parameter (:meth:`Parameters.bind`): mypy refuses any other text.

::

    parameters = Parameters()
    sql("{} >= {}", name("time"), parameters.bind("2026-01-15"))   →  "time" >= $1, with ["2026-01-15"]
"""

import re
from collections.abc import Iterable
from typing import LiteralString, NewType

from psycopg.sql import SQL, Identifier

Fragment = NewType("Fragment", str)
"""SQL with numbered placeholders (``$1``), for psycopg's raw cursors."""
Value = str | None
"""What is bound: text, whose type PostgreSQL takes from where it stands, as it does with a quoted literal."""


def sql(template: LiteralString, *parts: Fragment, **named: Fragment) -> Fragment:
    """``template`` with its ``{}`` filled in."""
    return Fragment(template.format(*parts, **named))


def joined(separator: LiteralString, parts: Iterable[Fragment]) -> Fragment:
    """The parts with ``separator`` between them."""
    return Fragment(separator.join(parts))


def name(identifier: str) -> Fragment:
    """A quoted identifier."""
    return Fragment(Identifier(identifier).as_string())


def qualified(schema: str, identifier: str) -> Fragment:
    """``"schema"."identifier"``."""
    return Fragment(Identifier(schema, identifier).as_string())


class Parameters:
    """The values of one statement in the order of their numbers."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: list[Value] = []

    def bind(self, value: Value) -> Fragment:
        """The placeholder of ``value``."""
        self.values.append(value)
        return Fragment(f"${len(self.values)}")


def array_literal(values: Iterable[str]) -> str:
    """The text of an array with these elements: one value to bind, however many there are."""
    quoted = ('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values)
    return "{" + ",".join(quoted) + "}"


_MARKS = re.compile(r'"(?:[^"]|"")*"|\'(?:[^\']|\'\')*\'|\$[0-9]+|%')


def composable(fragment: Fragment, parameters: Parameters) -> tuple[SQL, dict[str, Value]]:
    """For psycopg's ordinary cursors: ``$1`` becomes ``%(p1)s``. Goes together with named parameters of others."""

    def renamed(found: re.Match[str]) -> str:
        text = found[0]
        return f"%(p{text[1:]})s" if text.startswith("$") else text.replace("%", "%%")

    values = {f"p{number}": value for number, value in enumerate(parameters.values, 1)}
    return SQL(_MARKS.sub(renamed, fragment)), values
