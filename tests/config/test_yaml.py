"""What is wrong with a file is said by file, line, field and value."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from flux.config import YamlDocument, load_yaml
from flux.errors import InputError
from flux.model import Duration


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    interval: Duration
    limit_kw: float = Field(default=1.0, ge=0)


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    controller: Inner
    rows: list[Inner] = []


def problem(text: str) -> str:
    with pytest.raises(InputError) as caught:
        YamlDocument(text, "site.yaml").parse(Outer)
    return str(caught.value)


def test_a_good_file_is_parsed() -> None:
    outer = YamlDocument("name: '17:00'\ncontroller: {interval: 4s}\n", "site.yaml").parse(Outer)
    assert outer.name == "17:00"
    assert outer.controller.interval.total_seconds() == 4


def test_a_time_stays_text() -> None:
    assert YamlDocument("name: 17:00\ncontroller: {interval: 4s}", "x").parse(Outer).name == "17:00"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "name: a\ncontroller:\n  intervall: 4s\n",
            "site.yaml:3: controller.intervall: unknown key; did you mean 'interval'?",
        ),
        (
            "name: a\ncontroller:\n  interval: 4\n",
            "site.yaml:3: controller.interval: 4: 4 has no unit; write it like 4s, 20m or 2h",
        ),
        (
            "name: a\ncontroller:\n  interval: 4s\n  limit_kw: -1\n",
            "site.yaml:4: controller.limit_kw: -1: input should be greater than or equal to 0",
        ),
        ("name: a\n", "site.yaml:1: controller: is missing"),
        (
            "name: a\ncontroller: {interval: 4s}\nrows:\n- interval: 1s\n- interval: x\n",
            "site.yaml:5: rows[1].interval: 'x': 'x' is not a duration; write it like 4s, 20m, 2h or 1h30m",
        ),
    ],
)
def test_the_message_names_line_field_and_value(text: str, expected: str) -> None:
    assert expected in problem(text).splitlines()


def test_a_key_written_twice_is_an_error() -> None:
    assert problem("name: a\nname: b\n").startswith("site.yaml:2: ")


def test_broken_yaml_names_the_line() -> None:
    assert problem("name: a\ncontroller: [1, 2\n").startswith("site.yaml:")


def test_a_list_where_keys_are_expected_is_refused() -> None:
    assert "expected keys and values" in problem("- 1\n- 2\n")


def test_a_missing_file_and_a_binary_one_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_yaml(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        load_yaml(tmp_path / "binary.yaml")


def test_a_misspelt_key_is_not_told_as_missing_as_well() -> None:
    class Needs(BaseModel):
        model_config = ConfigDict(extra="forbid")
        manufacturer: str
        other: str

    with pytest.raises(InputError) as caught:
        YamlDocument("manufacturr: x\n", "a.yaml").parse(Needs)
    told = set(str(caught.value).splitlines())
    assert told == {
        "a.yaml:1: manufacturr: unknown key; did you mean 'manufacturer'?",
        "a.yaml:1: other: is missing",
    }
