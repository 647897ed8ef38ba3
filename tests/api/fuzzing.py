"""Requests to ``/rest/v1`` as nobody would write them: a grammar to generate them by, and a knife to spoil them with.

Everything that a caller may choose freely carries :data:`MARK`: in a statement it may stand inside a quoted identifier
(an alias) or in the parameters, and nowhere else.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

MARK = "zq7"

_EQUAL = ("eq", "neq", "gt", "gte", "lt", "lte", "isdistinct")
_OPERATORS = {
    "text": (*_EQUAL, "like", "ilike", "match", "imatch", "like(any)", "ilike(all)"),
    "json": ("cs", "cd", "eq", "neq", "isdistinct"),
    "array": ("cs", "cd", "ov", "eq"),
}
"""That a type of column has; any other one has those of equality and order."""
_ODD_OPERATORS = (
    "in", "is", "fts", "sl", "adj", "like(any)", "ilike(all)", "eq(any)", "gt(all)", MARK, "", "eq.eq", "not", "like",
    "cs", "ov", "match", "(", "eq(", "eq(some)", "is(any)",
)  # fmt: skip
_PLAIN = {
    "text": ("WLCE", "online", "bess", "W*", "%METER", "1", MARK, f"a {MARK}"),
    "number": ("1", "-20.125", "0", "1e3", "999999"),
    "time": ("2026-01-15T12:00:00Z", "2026-01-15 11:30:00+00:00", "now", "infinity"),
    "uuid": ("6f0c2b1e-0000-4000-8000-000000000000",),
    "boolean": ("true", "false"),
    "json": ("{}", '{"note":"x"}', f'{{"{MARK}":1}}', "1", '"WLCE"'),
    "array": ("{}", "{inverter}", f"{{{MARK},soe_max}}"),
}
_JSON_VALUES = {"number": (1, 2.5, None), "boolean": (True, False), "json": ({}, {MARK: [1]}), "array": (["a"], [])}
_ATOMS = (
    "-1", "0.5", "1e308", "1e999", "9" * 40, "-9223372036854775809", "2147483648", "NaN", "Infinity", "null",
    "unknown", "not_null", "2026-02-30", "infinity", "now", "epoch", "24:00",
    "00000000-0000-0000-0000-000000000000", "HMCE", "{a,b}", "{\"a", "[1,2]", "[1,", '{"a":1}',
    '{"a":', "(1,2)", "(", ")", "()", "'", "''", '"', '""', "\\", "\\\\", ";", "--", "/*", "*/", "$1", "$$", "%s",
    "%(a)s", "{0}", "%", "_", "*", "**", ".", "..", ",", ":", "::", "->", "->>", "!", "#", "&", "=", "+", " ", "\t",
    "\n", "\r\n", "\x00", "\x1b", "\x7f", "é", "✓", "\U0001f50b", "\u202e", "\ufeff", "İ", "ß", "(?=", "(a+)+$",
    "[[:<:]]", f"{MARK}'; DROP TABLE flux.sites; --", f"' OR '{MARK}'='{MARK}", f'{MARK}"; SELECT 1; --',
    f"{MARK}') UNION SELECT 1",
    f"1); SELECT pg_sleep(9)--{MARK}", f"\\'; {MARK}", f"{MARK}::int)", f"E'\\x27{MARK}", f"U&'\\0027{MARK}",
)  # fmt: skip
_TYPES = ("text", "jsonb", "float8", "timestamptz", "varchar")
_ODD_TYPES = ("int", "numeric(3,1)", "regclass", "text[]", "pg_catalog.text", "int;--", MARK)
_PREFERENCES = (
    "return=minimal", "return=headers-only", "return=representation", "count=exact", "count=planned",
    "count=estimated", "resolution=merge-duplicates", "resolution=ignore-duplicates", "missing=default",
    "handling=lenient", "tx=rollback", "tx=commit", "timezone=Europe/London",
)  # fmt: skip
_ODD_PREFERENCES = (
    "max-affected=1", "handling=strict", f"timezone={MARK}", f"count={MARK}", f"{MARK}", "max-affected=x", "return=",
    "=", "params=single-object",
)  # fmt: skip
_ACCEPTS = (
    "application/json", "text/csv", "*/*", "application/vnd.pgrst.array+json;nulls=stripped",
    "application/vnd.pgrst.object+json",
)  # fmt: skip
_ODD_ACCEPTS = (
    "application/openapi+json", "application/vnd.pgrst.plan+json", "text/html", MARK, "",
    "application/json;q=0.1, text/csv", "application/geo+json", "application/octet-stream",
)  # fmt: skip
_METHODS = ("GET",) * 14 + ("HEAD", "POST", "POST", "PATCH", "PUT", "DELETE", "OPTIONS", "TRACE", MARK.upper())


def kind_of(type: str) -> str:
    """The kind of a column, by the name of its type."""
    if type.endswith("[]"):
        return "array"
    known = {"uuid": "uuid", "boolean": "boolean", "jsonb": "json", "date": "time", "timestamp with time zone": "time"}
    numbers = {"real", "double precision", "integer", "bigint", "smallint", "numeric"}
    return known.get(type, "number" if type in numbers else "text")


@dataclass(frozen=True, slots=True)
class Wild:
    """One request. ``target`` is what stands in the request line."""

    method: str
    target: bytes
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Wilderness:
    """Requests by chance; the same seed makes the same ones.

    ``columns``: of each table, with the kind of each (see :func:`kind_of`); ``related``: what a table can embed;
    ``functions``: their parameters, with kinds.
    """

    def __init__(
        self,
        seed: int,
        columns: Mapping[str, Mapping[str, str]],
        related: Mapping[str, Sequence[str]],
        functions: Mapping[str, Mapping[str, str]],
    ) -> None:
        self._chance = random.Random(seed)
        self._columns = columns
        self._related = related
        self._functions = functions
        self._wildness = 0.0

    def request(self) -> Wild:
        """The next one: one in three nearly well-formed, so that it comes as far as the database."""
        self._wildness = self._one((0.01, 0.06, 0.3))
        method = self._one(_METHODS)
        path, parameters = self._function() if self._often(0.12) else self._table(method)
        query = "&".join(f"{self._quoted(name)}={self._quoted(value)}" for name, value in parameters)
        target = f"/rest/v1/{path}{'?' + query if query or self._often(0.05) else ''}".encode()
        if self._often(self._wildness):
            target = self._spoiled(target)
        body = self._body(path) if method in {"POST", "PATCH", "PUT"} or self._often(0.02) else b""
        return Wild(method, target, tuple(self._headers(body)), body)

    # ── what may stand in a request ─────────────────────────────────────────────────────────────────────────────────

    def _table(self, method: str) -> tuple[str, list[tuple[str, str]]]:
        table = self._name(tuple(self._columns), (MARK, "pg_catalog.pg_class", "", "a/b", "rpc"))
        parameters = [self._filter(table) for _ in range(self._chance.randrange(4))]
        if self._often(0.6):
            parameters.append(("select", self._select(table, 0)))
        if self._often(0.4):
            parameters.append(("order", ",".join(self._order(table) for _ in range(self._chance.randrange(1, 4)))))
        if self._often(0.5):
            parameters.append(("limit", self._name(("1", "0", "20"), _ATOMS)))
        if self._often(0.2):
            name = self._name(("offset",), (f"{self._embedded(table)}.limit", "Offset"))
            parameters.append((name, self._name(("1", "5"), _ATOMS)))
        if method != "GET" and self._often(0.5):
            parameters.append((self._one(("columns", "on_conflict")), ",".join(self._names(table))))
        self._chance.shuffle(parameters)
        return quote(table, safe="/"), parameters

    def _function(self) -> tuple[str, list[tuple[str, str]]]:
        name = self._name(tuple(self._functions), (MARK, "pg_sleep", "set_config", ""))
        known = self._functions.get(name) or {MARK: "text"}
        chosen = [self._name(tuple(known), (MARK,)) for _ in range(self._chance.randrange(4))]
        given = [(one, self._value(known.get(one, "text"))) for one in dict.fromkeys(chosen)]
        given += [self._filter("mg_meter_readings_1h")] * self._often(self._wildness)
        return f"rpc/{name}", given

    def _column(self, table: str) -> str:
        known = tuple(self._columns.get(table, ("site",)))
        name: str = self._name(known, (MARK, "*", "ctid", "xmin", "tableoid", '"', ""))
        while self._often(0.5 if name.startswith(("metadata", "diagnostics")) else self._wildness / 2):
            step = self._name(("site", "tags", "0", "-1", MARK), ("'", '"a b"', "a'b", "9" * 20, "", f"{MARK}'--"))
            name += self._one(("->", "->>")) + step
        return name

    def _names(self, table: str) -> list[str]:
        return [self._column(table) for _ in range(self._chance.randrange(1, 5))]

    def _embedded(self, table: str) -> str:
        return str(self._name(self._related.get(table) or ("sites",), (*self._columns, MARK)))

    def _select(self, table: str, depth: int) -> str:
        return ",".join(self._selected(table, depth) for _ in range(self._chance.randrange(1, 5)))

    def _selected(self, table: str, depth: int) -> str:
        if depth < 4 and self._often(0.3) and (table in self._related or self._often(self._wildness)):
            inner = self._embedded(table)
            hint = self._name(("", "", "!inner", "!left"), (f"!{MARK}", "!mg_device_registry_site_fkey", "!"))
            begin = self._name(("", "", f"{MARK}:"), ("...", "....", f"{MARK}'\":"))
            return f"{begin}{inner}{hint}({self._select(inner, depth + 1) if self._often(0.9) else ''})"
        alias = f"{self._name((MARK,), ('a b', *_ATOMS))}:" if self._often(0.2) else ""
        cast = f"::{self._name(_TYPES, _ODD_TYPES)}" if self._often(0.1) else ""
        call = self._one((".count()", ".sum()", f".{MARK}()")) if self._often(self._wildness / 4) else ""
        return f"{alias}{self._column(table)}{cast}{call}"

    def _order(self, table: str) -> str:
        inside = self._often(self._wildness / 2)
        column = f"{self._embedded(table)}({self._column(table)})" if inside else self._column(table)
        ways = ("", ".asc", ".desc", ".nullsfirst", ".desc.nullslast")
        return column + str(self._name(ways, (f".{MARK}", ".asc.asc", ".", ".asc,")))

    def _filter(self, table: str) -> tuple[str, str]:
        if self._often(0.25):
            name = self._name(("or", "and", "not.or", "not.and"), (f"{self._embedded(table)}.or", "xor"))
            return name, f"({self._logic(table, 0)})"
        prefix = f"{self._embedded(table)}." if self._often(self._wildness / 2) else ""
        column = self._column(table)
        return f"{prefix}{column}", self._condition(self._kind(table, column))

    def _kind(self, table: str, column: str) -> str:
        """Of a column, or of what a path into one gives."""
        name, _, path = column.partition("->")
        kind = self._columns.get(table, {}).get(name, "text")
        return kind if not path else "text" if column.rpartition("->")[2].startswith(">") else "json"

    def _condition(self, kind: str) -> str:
        negation = "not." if self._often(0.15) else ""
        if self._often(0.15):
            inside = ",".join(self._value(kind) for _ in range(self._chance.randrange(5)))
            return f"{negation}in.{self._name(('(',), ('', '{', '(('))}{inside})"
        if self._often(0.1):
            known = ("null", "not_null", "true", "unknown") if kind == "boolean" else ("null", "not_null")
            return f"{negation}is.{self._name(known, _ATOMS)}"
        return f"{negation}{self._name(_OPERATORS.get(kind, _EQUAL), _ODD_OPERATORS)}.{self._value(kind)}"

    def _logic(self, table: str, depth: int) -> str:
        if depth < 12 and self._often(0.4):
            inner = ",".join(self._logic(table, depth + 1) for _ in range(self._chance.randrange(1, 3)))
            return f"{self._one(('and', 'or', 'not.and', 'not.or'))}({inner})"
        column = self._column(table)
        return f"{column}.{self._condition(self._kind(table, column))}"

    def _value(self, kind: str = "text") -> str:
        """What anybody might write, or what nobody would, marked."""
        if not self._often(self._wildness + (0.3 if kind == "text" else 0)):
            return str(self._one(_PLAIN[kind]))
        if self._often(0.3):
            return str(self._one(_ATOMS))
        return f"{self._one(('', *_ATOMS))}{MARK}{self._one(('', *_ATOMS))}"

    def _headers(self, body: bytes) -> list[tuple[str, str]]:
        headers = []
        if self._often(0.5):
            chosen = [self._name(_PREFERENCES, _ODD_PREFERENCES) for _ in range(self._chance.randrange(1, 5))]
            headers.append(("Prefer", self._one((",", ", ", ";")).join(chosen)))
        if self._often(0.3):
            headers.append(("Accept", self._name(_ACCEPTS, _ODD_ACCEPTS)))
        if self._often(0.15):
            headers.append(("Range", self._name(("0-9", "5-"), ("-5", "9-1", f"0-{'9' * 30}", "items=0-1", MARK))))
            headers.append(("Range-Unit", self._name(("items",), (MARK,))))
        if self._often(0.1):
            name = self._one(("Accept-Profile", "Content-Profile"))
            headers.append((name, self._name(("flux", "public"), ("flux_api", "pg_catalog", MARK, ""))))
        if body:
            kinds = ("application/json",) * 6 + ("text/csv", "application/x-www-form-urlencoded", "text/plain", MARK)
            headers.append(("Content-Type", self._one(kinds)))
        return headers

    def _body(self, path: str) -> bytes:
        table = path if path in self._columns else str(self._one(tuple(self._columns)))
        shape = self._chance.random()
        if shape < 0.6:
            rows: Any = [self._row(table) for _ in range(self._chance.randrange(4))]
            text = json.dumps(rows if self._often(0.6) else self._row(table), ensure_ascii=self._often(0.5)).encode()
        elif shape < 0.8:
            lines = [",".join(self._names(table))]
            lines += [",".join(self._value() for _ in range(self._chance.randrange(5))) for _ in range(3)]
            text = "\n".join(lines).encode()
        else:
            deep = self._chance.choice((10, 2000, 20000))
            whole = (b"", b"null", b"[]", b"{}", b"[[]]", b'"a"', b"1" * 5000, b"[" * deep, b'{"a":' * deep + b"1")
            text = self._one((*whole, b'[{"site":"WLCE"},1]', b"\xff\xfe", b'{"a":1,"a":2}', b'{"value":1e999}'))
        return self._spoiled(text) if text and self._often(0.2) else text

    def _row(self, table: str) -> dict[str, Any]:
        names = [self._name(tuple(self._columns[table]), (MARK,)) for _ in range(self._chance.randrange(6))]
        return {name: self._json_of(self._columns[table].get(name, "text")) for name in names}

    def _json_of(self, kind: str) -> Any:
        if self._often(self._wildness):
            return self._json(0)
        return self._one((*_JSON_VALUES.get(kind, ()), *_PLAIN[kind]))

    def _json(self, depth: int) -> Any:
        if depth < 3 and self._often(0.2):
            return self._one(([self._json(depth + 1)], {self._value(): self._json(depth + 1)}))
        return self._one(
            (self._value(), None, True, 1, -0.0, 10**25, 1e300, "", "WLCE", "HMCE", "2026-01-15T12:00:00Z")
        )

    # ── the knife ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _spoiled(self, text: bytes) -> bytes:
        """A few bytes gone, doubled, changed or put in."""
        spoiled = bytearray(text)
        for _ in range(self._chance.randrange(1, 4)):
            at = self._chance.randrange(len(spoiled)) if spoiled else 0
            way = self._chance.randrange(5)
            if way == 0:
                del spoiled[at : at + self._chance.randrange(1, 6)]
            elif way == 1:
                spoiled[at:at] = spoiled[at : at + self._chance.randrange(1, 30)]
            elif way == 2:
                pieces = (b"%", b"%00", b"%zz", b"%2", b"%ff%fe", b"%ED%A0%80", b"%0a", b"(", b")", b",", b".", b'"')
                spoiled[at:at] = self._one((*pieces, b"&", b"=", b"..", b"%25", b"%2F", b"//", b";", b"#"))
            elif way == 3 and spoiled:
                spoiled[at % len(spoiled)] = self._chance.choice(range(0x21, 0x7F))
            else:
                spoiled[at:at] = bytes([self._chance.randrange(0x21, 0x100)])
        return bytes(byte for byte in spoiled if byte > 0x20 and byte != 0x7F)

    def _quoted(self, text: str) -> str:
        return quote(text, safe="(),.:*!->\"'{}$@;/" if self._often(0.7) else "")

    def _name(self, usual: Sequence[Any], odd: Sequence[Any]) -> Any:
        """One of the usual ones; the wilder the request, the more often an odd one."""
        return self._one(odd if self._often(self._wildness) else usual)

    def _one(self, choices: Sequence[Any]) -> Any:
        return self._chance.choice(choices)

    def _often(self, share: float) -> bool:
        return self._chance.random() < share
