"""The real half hours that stay outside of the project: ``FLUX_TEST_DATA``, or ``shared/data`` beside the checkout."""

import os
from pathlib import Path

import pytest


def real_data(name: str = "gb_2024_01") -> Path:
    """The folder of a set; skips the test where it is missing."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("FLUX_TEST_DATA", beside)) / name
    if not folder.is_dir():
        pytest.skip(f"the data set {name} is not here ({folder}); FLUX_TEST_DATA names the folder that has it")
    return folder
