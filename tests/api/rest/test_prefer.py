"""The Prefer header: what is known, what is not, what is answered."""

import pytest

from flux.api.rest.prefer import Count, Missing, Preferences, Resolution, Return, Tx, parse_prefer


def test_of_a_preference_given_twice_the_first_counts() -> None:
    assert parse_prefer(["tx=commit, tx=rollback"]).tx is Tx.COMMIT
    assert parse_prefer(["resolution=ignore-duplicates", "resolution=merge-duplicates"]).resolution is Resolution.IGNORE


def test_several_headers_and_any_spaces_are_one_list() -> None:
    found = parse_prefer(["count=exact,    missing=default  ,return=representation", "max-affected=7,handling=strict"])
    assert (found.count, found.missing, found.returning) == (Count.EXACT, Missing.DEFAULT, Return.REPRESENTATION)
    assert (found.max_affected, found.strict, found.invalid) == (7, True, ())
    assert found.applied() == "missing=default, return=representation, count=exact, handling=strict, max-affected=7"
    assert found.applied(without={"count", "missing", "max_affected"}) == "return=representation, handling=strict"


UNKNOWN = """foo|return=everything|max-affected=-1|max-affected=1_0|max-affected=99999999999999999999|max-affected=²
timezone=|timezone=../etc/passwd|timezone=Nowhere/Atall|timezone=Europe|=|RETURN=minimal""".replace("\n", "|").split(
    "|"
)


@pytest.mark.parametrize("said", UNKNOWN)
def test_what_is_not_known_is_kept_apart(said: str) -> None:
    found = parse_prefer([f"return=minimal,{said}"])
    assert found == Preferences(returning=Return.MINIMAL, invalid=(said,))


def test_max_affected_holds_under_strict_handling_only() -> None:
    assert parse_prefer(["max-affected=1"]).applied() is None
    assert parse_prefer([]).applied() is None


def test_a_time_zone_is_a_name_that_is_known() -> None:
    assert parse_prefer(["timezone=Europe/London"]).timezone == "Europe/London"
