"""Tariff files that are refused: each with file, line, field and what is wrong; and what is taken."""

from pathlib import Path

import pytest

from flux.analysis.tariff import Market, Tariff, load_tariff, parse_tariff, tariff_hash
from flux.config import YamlDocument
from flux.errors import InputError

SAMPLE = """\
timezone: Europe/London
holidays: GB-ENG
supply_points:
  msp: 1.0
  nsp: 1.11
rates:
  import:
    - name: red
      price: 113.85
      supply_point: msp
      periods:
        - {days: weekdays, start: "17:00", end: "19:00"}
    - {name: imbalance, market: imbalance, supply_point: nsp}
    - {name: supplier, share: 0.05}
  export:
    - {name: imbalance, market: imbalance, factor: -1, supply_point: nsp}
daily:
  - {name: meter, charge: 12.5, from: 2024-04-01}
"""


def parsed(text: str) -> Tariff:
    return parse_tariff(YamlDocument(text, "tariff.yaml"))


def test_a_tariff_is_taken() -> None:
    tariff = parsed(SAMPLE)
    assert tariff.markets == {Market.IMBALANCE}
    assert tariff_hash(tariff) == tariff_hash(parsed(SAMPLE + "# a remark\n"))
    assert tariff_hash(tariff) != tariff_hash(parsed(SAMPLE.replace("113.85", "113.86")))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("price: 113.85", "price: a lot", "tariff.yaml:9: rates.import[0].price: 'a lot': not a number"),
        ("price: 113.85", "prise: 113.85", "tariff.yaml:9: rates.import[0].prise: unknown key; did you mean 'price'?"),
        (
            "price: 113.85",
            "market: imbalance\n      price: 1",
            "tariff.yaml:8: rates.import[0]: needs one of price, market and share, and has price and market",
        ),
        ("share: 0.05", "of: [red]", "needs one of price, market and share, and has none"),
        ("share: 0.05", "share: 0.05, factor: 2", "factor has no meaning beside share"),
        ("share: 0.05", "share: 0.05, supply_point: msp", "the other rates have their losses already"),
        ("share: 0.05", "share: 0.05, of: [amber]", "rates.import[2].of: 'amber' is no rate of this direction"),
        ("factor: -1", "floor: 1, cap: 0", "floor: 1 is above cap: 0"),
        (
            "supply_point: msp",
            "supply_point: gsp",
            "tariff.yaml:10: rates.import[0].supply_point: 'gsp' is no supply point of this tariff; there are: msp",
        ),
        ("nsp: 1.11", "nsp: -1", "tariff.yaml:5: supply_points.nsp: -1: input should be greater than 0"),
        ("{name: imbalance, market: imbalance, supply", "{name: red, price: 1, supply", "'red' is named twice"),
        ("name: supplier", "name: ' '", "is empty"),
        ("market: imbalance, supply", "market: imbalence, supply", "rates.import[1].market"),
        (
            '"19:00"}\n',
            '"19:00"}\n        - {days: weekdays, start: "18:00", end: "20:00"}\n',
            "tariff.yaml:13: rates.import[0].periods[1]: 18:00–20:00 overlaps 17:00–19:00 of the same rate",
        ),
        ("Europe/London", "Europe/Lundon", "tariff.yaml:1: timezone: 'Europe/Lundon': unknown time zone; did you mean"),
        ("GB-ENG", "GB-XX", "tariff.yaml:2: holidays"),
        ("from: 2024-04-01", "from: soon", "daily[0].from: 'soon': not a day; write it like 2024-04-01"),
        ("from: 2024-04-01", "from: 2024-04-01, to: 2024-04-01", "is not after from"),
        ("charge: 12.5", "charge: true", "daily[0].charge: True: not a number"),
    ],
)
def test_a_wrong_tariff_is_refused_in_a_line(old: str, new: str, message: str) -> None:
    assert old in SAMPLE
    with pytest.raises(InputError) as caught:
        parsed(SAMPLE.replace(old, new, 1))
    assert message in str(caught.value)
    assert str(caught.value).startswith("tariff.yaml:")


def test_a_tariff_without_rates_is_none() -> None:
    with pytest.raises(InputError, match="rates: names no rate"):
        parsed("rates: {}")


def test_the_example_of_the_docs_is_taken() -> None:
    tariff = load_tariff(Path(__file__).parents[2] / "docs" / "examples" / "tariff.yaml")
    assert [rate.name for rate in tariff.rates.export] == ["energy", "supplier share"]
