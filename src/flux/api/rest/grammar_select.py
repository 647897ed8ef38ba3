"""The part of the grammar that names things: paths, fields with JSON arrows, and ``select``.

::

    site:sites!inner(name,tz:timezone),metadata->>model,capacity:metadata->capacity_kwh::float8
"""

import re

from flux.api.rest.scanner import Scanner, stripped
from flux.api.rest.syntax import Aggregate, Column, Embed, Field, Join, Path, Step

DEEPEST = 8
"""Resources inside one another."""
MOST_EMBEDS = 24
"""Resources of one request: each is a join."""
MOST_COLUMNS = 1000
"""Of one resource."""
_ARROW = re.compile(r"->>?")
_INDEX = re.compile(r"(-?[0-9]{1,9})(?=->|::|[.,)\s]|\Z)")
_KEY = re.compile(r"[^(\-:.,>)]+(?:-(?!>)[^(\-:.,>)]+)*")
_STAR = re.compile(r"\*[ \t]*(?=[,)]|\Z)")
_COUNT = re.compile(r"count\(\)")
_AGGREGATE = re.compile(r"\.(sum|avg|count|min|max)\(\)")
_CAST = re.compile(r"[\w $]+")
_COLON = re.compile(r":(?!:)")
_SPREAD = re.compile(r"[ \t]*\.\.\.")
_AFTER_FIELD = '"->>", "->", "::", ".", ")", "," or end of input'


def read_path(scanner: Scanner) -> Path:
    """Names with dots between them."""
    names = [scanner.name()]
    while scanner.accept("."):
        names.append(scanner.name())
    return tuple(names)


def read_field(scanner: Scanner) -> Field:
    """A name and the arrows behind it, with blanks around them."""
    scanner.skip_blank()
    field = Field(scanner.name(), read_json_path(scanner))
    scanner.skip_blank()
    return field


def read_json_path(scanner: Scanner) -> tuple[Step, ...]:
    """Arrows; none, mostly."""
    steps = []
    while (arrow := scanner.match(_ARROW)) is not None:
        as_text = len(arrow[0]) == 3
        if (index := scanner.match(_INDEX)) is not None:
            steps.append(Step(int(index[1]), as_text))
            continue
        start = scanner.at
        key = scanner.quoted()
        if key is None:
            found = scanner.match(_KEY)
            key = stripped(found[0]) if found else ""
            if not key:
                scanner.at = start
                raise scanner.error("any non reserved character different from: .,>()")
        steps.append(Step(key, as_text))
    return tuple(steps)


def read_select(text: str) -> tuple[Column | Embed, ...]:
    """What ``select=`` says; empty: nothing of the row itself."""
    scanner = Scanner(text, "select parameter")
    reader = _SelectReader(scanner)
    items = reader.items(1)
    scanner.end(_AFTER_FIELD)
    return items


class _SelectReader:
    def __init__(self, scanner: Scanner) -> None:
        self.scanner = scanner
        self.embeds = 0

    def items(self, depth: int) -> tuple[Column | Embed, ...]:
        """Up to the end, or to the bracket that closes them."""
        scanner = self.scanner
        scanner.skip_blank()
        if scanner.ended or scanner.text[scanner.at] == ")":
            return ()
        found = [self.item(depth)]
        while scanner.accept(","):
            found.append(self.item(depth))
            if len(found) > MOST_COLUMNS:
                raise scanner.error(f"at most {MOST_COLUMNS} columns")
        return tuple(found)

    def item(self, depth: int) -> Column | Embed:
        scanner = self.scanner
        if scanner.match(_SPREAD):
            return self.embed(scanner.name(), None, depth, spread=True)
        scanner.skip_blank()
        if scanner.match(_STAR):
            return Column(Field("*"))
        alias = self.alias()
        start = scanner.at
        if scanner.match(_COUNT):
            return self.ended(Column(Field("*"), alias, aggregate=Aggregate.COUNT, aggregate_cast=self.cast()))
        name = scanner.name()
        if scanner.at < len(scanner.text) and scanner.text[scanner.at] in "!(":
            return self.embed(name, alias, depth)
        scanner.at = start
        return self.column(alias)

    def alias(self) -> str | None:
        start = self.scanner.at
        name = self.scanner.name()
        if self.scanner.match(_COLON):
            self.scanner.skip_blank()
            return name
        self.scanner.at = start
        return None

    def column(self, alias: str | None) -> Column:
        scanner = self.scanner
        field = read_field(scanner)
        cast = self.cast()
        aggregate = scanner.match(_AGGREGATE)
        if aggregate is None:
            return self.ended(Column(field, alias, cast))
        return self.ended(Column(field, alias, cast, Aggregate(aggregate[1]), self.cast()))

    def cast(self) -> str | None:
        scanner = self.scanner
        if not scanner.accept("::"):
            return None
        found = scanner.match(_CAST)
        if found is None or not found[0].strip():
            raise scanner.error("letter or digit")
        return found[0].strip()

    def ended(self, column: Column) -> Column:
        scanner = self.scanner
        scanner.skip_blank()
        if not scanner.ended and scanner.text[scanner.at] not in ",)":
            raise scanner.error(_AFTER_FIELD)
        return column

    def embed(self, relation: str, alias: str | None, depth: int, *, spread: bool = False) -> Embed:
        scanner = self.scanner
        hint, join = self.parameters()
        self.embeds += 1
        if depth > DEEPEST or self.embeds > MOST_EMBEDS:
            raise scanner.error(f"at most {MOST_EMBEDS} embedded resources, at most {DEEPEST} inside one another")
        scanner.expect("(")
        select = self.items(depth + 1)
        scanner.expect(")")
        scanner.skip_blank()
        return Embed(relation, select, alias, hint, join, spread)

    def parameters(self) -> tuple[str | None, Join | None]:
        """At most one hint and one kind of join behind exclamation marks, in any order."""
        hint: str | None = None
        join: Join | None = None
        for _ in range(2):
            if not self.scanner.accept("!"):
                break
            word = self.scanner.name()
            if word in {"inner", "left"}:
                join = join or Join(word)
            else:
                hint = hint or word
        return hint, join
