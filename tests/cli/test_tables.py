"""Tables for people show what is stored, letter by letter."""

import pytest

from flux.cli.shared import print_table


def test_brackets_and_colons_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{"reason": "[/red] swap [bold]fan :fire:"}, {"reason": "100% é"}])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["reason", "[/red] swap [bold]fan :fire:", "100% é"]
