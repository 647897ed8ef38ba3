"""Reads sets of rate files in p/kWh (JSON or YAML: network and supplier fees) and makes one tariff of them.

``{"duos": {"red": {"rate": 11.385, "supplyPoint": "msp", "periods": […]}}}`` of the import direction becomes
``{name: red, price: 113.85, supply_point: msp, periods: […]}`` under ``rates.import``.

In such files a cost is positive and an income negative, as in Flux; ``imbalance`` stands for the imbalance price
(negative where ``isExport``), ``multiplierRate`` for a share of all other rates of its direction, ``powerFixed`` for a
price at all times, ``regularFixed`` for p/day. A period that ends at 23:59:59 means midnight.
"""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from flux.analysis.flows import Direction
from flux.analysis.tariff import parse_tariff
from flux.config import YamlDocument, load_yaml
from flux.control.zones import ZoneName
from flux.errors import InputError

_DEFAULT_ZONE: ZoneName = "Europe/London"
_DAYS = ("all", "weekdays", "weekends")
_MIDNIGHT = "24:00"


def convert(rate_files: Sequence[tuple[Direction, Path]], daily_files: Sequence[Path], points_file: Path | None) -> str:
    """The text of a tariff file that says what these files say, and was checked; what can't be said is refused."""
    tariff = CommentedMap()
    tariff["timezone"] = _DEFAULT_ZONE
    if points_file is not None:
        tariff["supply_points"] = _supply_points(load_yaml(points_file))
    rates, daily = CommentedMap(), CommentedSeq()
    for direction, path in rate_files:
        file = _RateFile(load_yaml(path))
        rates.setdefault(direction.value, CommentedSeq()).extend(file.rates())
        daily.extend(file.daily())
    for path in daily_files:
        file = _RateFile(load_yaml(path))
        if next(file.rates(), None) is not None:
            raise InputError(f"{path}: has rates for energy too: say of which direction, like --import {path}")
        daily.extend(file.daily())
    tariff["rates"] = rates
    if daily:
        tariff["daily"] = daily
    text = _written(tariff)
    parse_tariff(YamlDocument(text, "the converted tariff"))
    return text


def _written(tariff: CommentedMap) -> str:
    yaml = YAML()
    yaml.width = 118
    yaml.indent(mapping=2, sequence=4, offset=2)
    out = StringIO()
    yaml.dump(tariff, out)
    return out.getvalue()


def _supply_points(doc: YamlDocument) -> CommentedMap:
    points = CommentedMap()
    for name, body in _items(doc, doc.data, (), allowed={"supplyPoints"}):
        for point, factor in _items(doc, body, (name,)):
            at = (name, point)
            points[point] = float(_number(doc, at, dict(_items(doc, factor, at, allowed={"lossFactor"})), "lossFactor"))
    return points


class _RateFile:
    """One file of rates of one direction."""

    def __init__(self, doc: YamlDocument) -> None:
        self._doc = doc
        kinds = {"duos", "powerFixed", "imbalance", "multiplierRate", "regularFixed"}
        self._kinds = dict(_items(doc, doc.data, (), allowed=kinds))

    def rates(self) -> Iterator[CommentedMap]:
        """What a MWh costs, rate by rate, in the order of the file."""
        for kind, body in self._kinds.items():
            if kind in ("duos", "powerFixed"):
                for name, rate in _items(self._doc, body, (kind,)):
                    yield self._priced(kind, name, rate)
            elif kind == "imbalance":
                yield self._imbalance(body)
            elif kind == "multiplierRate":
                yield self._share(body)

    def daily(self) -> Iterator[CommentedMap]:
        """What a day costs."""
        kind = "regularFixed"
        for name, charge in _items(self._doc, self._kinds.get(kind, {}), (kind,)):
            keys = dict(_items(self._doc, charge, (kind, name), allowed={"daily"}))
            pence = _number(self._doc, (kind, name), keys, "daily")
            yield _flow_map({"name": name, "charge": float(pence / 100)})

    def _priced(self, kind: str, name: str, body: Any) -> CommentedMap:
        at = (kind, name)
        allowed = {"rate", "supplyPoint"} | ({"periods"} if kind == "duos" else set())
        keys = dict(_items(self._doc, body, at, allowed=allowed))
        found = CommentedMap({"name": name, "price": float(_number(self._doc, at, keys, "rate") * 10)})
        if "supplyPoint" in keys:
            found["supply_point"] = keys["supplyPoint"]
        if kind == "powerFixed":
            return _flow_map(found)
        if not isinstance(keys.get("periods"), list):
            raise self._doc.error((*at, "periods"), "expected a list of periods")
        found["periods"] = CommentedSeq(
            self._period((*at, "periods", number), period) for number, period in enumerate(keys["periods"])
        )
        return found

    def _period(self, at: tuple[str | int, ...], body: Any) -> CommentedMap:
        keys = dict(_items(self._doc, body, at, allowed={"days", "start", "end"}))
        parts = {}
        for key in ("days", "start", "end"):
            text = keys.get(key)
            value, _, zone = str(text).rpartition(":")
            if not isinstance(text, str) or "/" not in zone:
                raise self._doc.error((*at, key), f"{text!r}: expected a value and its time zone, like …:Europe/London")
            parts[key] = (value, zone)
        zones = {zone for _, zone in parts.values()}
        if len(zones) != 1:
            raise self._doc.error(at, f"days, start and end have different time zones: {', '.join(sorted(zones))}")
        if parts["days"][0] not in _DAYS:
            raise self._doc.error((*at, "days"), f"{parts['days'][0]!r}: expected one of {', '.join(_DAYS)}")
        period = {"days": parts["days"][0], "start": _clock(parts["start"][0]), "end": _clock(parts["end"][0])}
        zone = zones.pop()
        return _flow_map(period if zone == _DEFAULT_ZONE else period | {"timezone": zone})

    def _imbalance(self, body: Any) -> CommentedMap:
        at = ("imbalance",)
        keys = dict(_items(self._doc, body, at, allowed={"supplyPoint", "isExport"}))
        if not isinstance(keys.get("isExport"), bool):
            raise self._doc.error((*at, "isExport"), "must be true or false")
        found: dict[str, Any] = {"name": "imbalance", "market": "imbalance"}
        if keys["isExport"]:
            found["factor"] = -1
        if "supplyPoint" in keys:
            found["supply_point"] = keys["supplyPoint"]
        return _flow_map(found)

    def _share(self, body: Any) -> CommentedMap:
        at = ("multiplierRate",)
        keys = dict(_items(self._doc, body, at, allowed={"name", "factor", "ratesToMultiply"}))
        if keys.get("ratesToMultiply") != "all-in-this-direction":
            raise self._doc.error((*at, "ratesToMultiply"), "only all-in-this-direction is known")
        factor = _number(self._doc, at, keys, "factor")
        return _flow_map({"name": str(keys.get("name", "share")), "share": float(factor)})


def _items(
    doc: YamlDocument, body: Any, at: tuple[str | int, ...], allowed: set[str] | None = None
) -> Iterator[tuple[str, Any]]:
    if not isinstance(body, Mapping):
        raise doc.error(at, "expected keys and values")
    for key, value in body.items():
        if allowed is not None and key not in allowed:
            raise doc.error((*at, str(key)), f"unknown key; known here: {', '.join(sorted(allowed))}")
        yield str(key), value


def _number(doc: YamlDocument, at: tuple[str | int, ...], keys: Mapping[str, Any], key: str) -> Decimal:
    value = keys.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise doc.error((*at, key) if key in keys else at, f"{key}: expected a number, found {value!r}")
    return Decimal(str(float(value)))  # as it was written: 11.385 × 10 is 113.85


def _clock(text: str) -> str:
    return _MIDNIGHT if text == "23:59:59" else text.removesuffix(":00") if text.count(":") == 2 else text


def _flow_map(values: Mapping[str, Any]) -> CommentedMap:
    """A mapping that is written on one line."""
    found = CommentedMap(values)
    found.fa.set_flow_style()
    return found
