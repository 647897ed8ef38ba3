"""Calls of a Supabase client, recorded once and made by each of the official clients.

``table("sites").select("site").eq("site", "WLCE")`` records what the Python clients would be called with; the same is
told to JavaScript under the names that it has there.
"""

from dataclasses import dataclass
from typing import Any

Call = tuple[str, tuple[Any, ...], dict[str, Any]]

_JS_NAMES = {
    "from_": "from",
    "in_": "in",
    "is_": "is",
    "or_": "or",
    "ov": "overlaps",
    "cs": "contains",
    "cd": "containedBy",
    "contained_by": "containedBy",
    "maybe_single": "maybeSingle",
    "max_affected": "maxAffected",
    "strip_nulls": "stripNulls",
    "like_all_of": "likeAllOf",
    "like_any_of": "likeAnyOf",
    "ilike_all_of": "ilikeAllOf",
    "ilike_any_of": "ilikeAnyOf",
    "is_distinct": "isDistinct",
    "not_in": "notIn",
    "match_regex": "regexMatch",
    "imatch_regex": "regexIMatch",
    "throw_on_error": "throwOnError",
}
_JS_OPTIONS = {
    "nullsfirst": "nullsFirst",
    "foreign_table": "referencedTable",
    "reference_table": "referencedTable",
    "on_conflict": "onConflict",
    "ignore_duplicates": "ignoreDuplicates",
    "default_to_null": "defaultToNull",
}
_JS_OPERATORS = {"in_": "in", "is_": "is"}


@dataclass(frozen=True, slots=True)
class Chain:
    """The calls so far, in the words of the Python clients."""

    calls: tuple[Call, ...] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copying and pickling ask for these; no client has such methods
            raise AttributeError(name)
        if name == "not_":
            return Chain((*self.calls, (name, (), {})))
        return lambda *args, **kwargs: Chain((*self.calls, (name, args, kwargs)))

    def replay(self, client: Any) -> Any:
        """The answer of a Python client."""
        for name, args, kwargs in self.calls:
            found = getattr(client, name)
            client = found if name == "not_" else found(*args, **kwargs)
        return client.execute()

    def for_javascript(self) -> list[list[Any]]:
        """``[[method, argument, …], …]`` as the JavaScript clients know them."""
        told: list[list[Any]] = []
        negated = False
        for name, args, kwargs in self.calls:
            if name == "not_":
                negated = True
                continue
            told.append(_negated(name, args) if negated else _in_javascript(name, args, kwargs))
            negated = False
        return told


def _in_javascript(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    options = {_JS_OPTIONS.get(key, key): value for key, value in kwargs.items() if key not in {"desc", "returning"}}
    if "desc" in kwargs:
        options["ascending"] = not kwargs["desc"]
    if name.endswith("_of"):
        args = (args[0], args[1].split(","))
    if name == "rpc" and len(args) == 1:
        args = (*args, {})
    if name == "select":
        args = (",".join(args) or "*",)
    return [_JS_NAMES.get(name, name), *args, *([options] if options else [])]


def _negated(name: str, args: tuple[Any, ...]) -> list[Any]:
    column, value = args
    operator = _JS_OPERATORS.get(name, name)
    if operator == "in":
        value = f"({','.join(map(str, value))})"
    return ["not", column, operator, value]


def table(name: str) -> Any:
    """Calls that begin with a table."""
    return Chain((("from_", (name,), {}),))


def rpc(name: str, *args: Any, **kwargs: Any) -> Any:
    """Calls that begin with a function."""
    return Chain((("rpc", (name, *args), kwargs),))
