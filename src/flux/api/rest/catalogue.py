"""What there is in schema ``flux_api``: tables (views, to PostgreSQL), columns, how they hang together, functions.

A view has no keys of its own: :mod:`flux.api.rest.catalogue_load` gives it those of the table of the same name in
schema ``flux``, and what is declared there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum

from flux.api.identity import Role
from flux.api.rest.errors import ApiError
from flux.api.rest.functions import PROFILE, SCHEMA, Function
from flux.api.rest.sqltext import Fragment, qualified


class Verb(StrEnum):
    """A right on a table."""

    SELECT = "SELECT"
    INSERT = "INSERT"
    UPDATE = "UPDATE"
    DELETE = "DELETE"


@dataclass(frozen=True, slots=True)
class ColumnInfo:
    """A column of a table, or of what a function answers."""

    name: str
    type: str
    """As PostgreSQL writes it, such as ``timestamp with time zone``."""
    base_type: str = ""
    """Its short name, such as ``timestamptz``; of a domain, that of what it is made from."""
    nullable: bool = True
    default: str | None = None
    generated: bool = False
    """Never written: computed, or an identity that is always made."""
    comment: str | None = None

    @property
    def is_json(self) -> bool:
        return self.base_type in {"json", "jsonb"}


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """``columns`` of ``table`` name the row of ``target`` that has them as ``target_columns``."""

    name: str
    table: str
    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the API."""

    name: str
    columns: Mapping[str, ColumnInfo]
    """In the order of the table."""
    primary_key: tuple[str, ...] = ()
    unique_keys: tuple[tuple[str, ...], ...] = ()
    """The primary key is one of them."""
    foreign_keys: tuple[ForeignKey, ...] = ()
    comment: str | None = None
    rights: Mapping[Role, frozenset[Verb]] = field(default_factory=dict)

    @property
    def sql(self) -> Fragment:
        return qualified(SCHEMA, self.name)

    def column(self, name: str) -> ColumnInfo:
        """ApiError 400 (42703) where there is none, with the one that was meant as a hint."""
        found = self.columns.get(name)
        if found is None:
            close = get_close_matches(name, self.columns, n=1, cutoff=0.7)
            hint = f'Perhaps you meant to reference the column "{self.name}.{close[0]}".' if close else None
            raise ApiError(400, "42703", f"column {self.name}.{name} does not exist", hint=hint)
        return found


class Cardinality(StrEnum):
    """How many rows of the target go with one row, and how many the other way round."""

    MANY_TO_ONE = "many-to-one"
    ONE_TO_ONE = "one-to-one"
    ONE_TO_MANY = "one-to-many"
    MANY_TO_MANY = "many-to-many"


@dataclass(frozen=True, slots=True)
class Through:
    """The table between the two of a many-to-many, with its foreign keys to either."""

    table: str
    near: ForeignKey
    far: ForeignKey


@dataclass(frozen=True, slots=True)
class Relationship:
    """How a row of ``table`` finds rows of ``target``."""

    table: str
    target: str
    cardinality: Cardinality
    name: str
    """Of the foreign key; of a many-to-many, the table between."""
    columns: tuple[tuple[str, str], ...]
    """Pairs of equal columns, of ``table`` and of ``target``; of a many-to-many, none."""
    through: Through | None = None

    @property
    def to_one(self) -> bool:
        return self.cardinality in {Cardinality.MANY_TO_ONE, Cardinality.ONE_TO_ONE}

    def described(self) -> dict[str, str]:
        """What an ambiguous request is told, to choose by."""
        if self.through is not None:
            near, far = self.through.near, self.through.far
            text = (
                f"{self.through.table} using {near.name}({', '.join(near.columns)})"
                f" and {far.name}({', '.join(far.columns)})"
            )
        else:
            ours = ", ".join(column for column, _ in self.columns)
            theirs = ", ".join(column for _, column in self.columns)
            text = f"{self.name} using {self.table}({ours}) and {self.target}({theirs})"
        return {
            "embedding": f"{self.table} with {self.target}",
            "cardinality": self.cardinality.value,
            "relationship": text,
        }


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything that a request can name."""

    tables: Mapping[str, Table]
    relationships: Mapping[str, tuple[Relationship, ...]]
    """By the table where they begin."""
    functions: tuple[Function, ...]
    types: frozenset[str]
    """Short names of the types that a column can be cast to."""

    def table(self, name: str) -> Table:
        """ApiError 404 (PGRST205) where there is none, with the one that was meant as a hint."""
        found = self.tables.get(name)
        if found is None:
            close = get_close_matches(name, self.tables, n=1, cutoff=0.75)
            raise ApiError(
                404,
                "PGRST205",
                f"Could not find the table '{PROFILE}.{name}' in the schema cache",
                hint=f"Perhaps you meant the table '{PROFILE}.{close[0]}'" if close else None,
            )
        return found

    def relationship(self, origin: str, target: str, hint: str | None = None) -> Relationship:
        """The one that an embedded resource names. ApiError 400 (PGRST200): none; 300 (PGRST201): several."""
        known = self.relationships.get(origin, ())
        found = [one for one in known if _is_meant(one, target, hint)]
        if len(found) == 1:
            return found[0]
        if not found:
            raise self._unrelated(origin, target, hint)
        choices = ", ".join(f"'{one.target}!{one.name}'" for one in found)
        raise ApiError(
            300,
            "PGRST201",
            f"Could not embed because more than one relationship was found for '{origin}' and '{target}'",
            [one.described() for one in found],
            f"Try changing '{target}' to one of the following: {choices}."
            " Find the desired relationship in the 'details' key.",
        )

    def _unrelated(self, origin: str, target: str, hint: str | None) -> ApiError:
        targets = {one.target for one in self.relationships.get(origin, ())}
        close = get_close_matches(target, targets, n=1, cutoff=0.5) if target not in targets else []
        using = f" using the hint '{hint}'" if hint is not None else ""
        return ApiError(
            400,
            "PGRST200",
            f"Could not find a relationship between '{origin}' and '{target}' in the schema cache",
            f"Searched for a foreign key relationship between '{origin}' and '{target}'{using} in the schema"
            f" '{PROFILE}', but no matches were found.",
            f"Perhaps you meant '{close[0]}' instead of '{target}'." if close else None,
        )


def _is_meant(one: Relationship, target: str, hint: str | None) -> bool:
    """By table, foreign key or column, as PostgREST's clients write it; a table's own column leads to its parent."""
    single = one.columns[0] if len(one.columns) == 1 else None
    if one.table == one.target:
        if hint is None:
            children = target == one.target and one.cardinality is Cardinality.ONE_TO_MANY
            return children or (one.to_one and single is not None and target == single[0])
        return target == one.target and one.cardinality is Cardinality.ONE_TO_MANY and hint == (single or ("", ""))[1]
    if hint is None:
        return target in {one.target, one.name if one.through is None else ""} or (
            single is not None and target == single[0]
        )
    return target == one.target and (hint == one.name or (single is not None and hint in single))
