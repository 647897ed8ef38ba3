"""The site file: what it may say, and how what is wrong is told."""

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.edge.conftest import PLAN

from flux.edge.config import SiteConfig, load_site_file, site_schema
from flux.model import InputError

DOCS = Path(__file__).parents[2] / "docs" / "edge.md"


def site_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    return path


def test_a_site_code_is_enough(tmp_path: Path) -> None:
    site = load_site_file(site_file(tmp_path, "site: WLCE\n"))
    assert site.config == SiteConfig(site="WLCE")
    assert site.state_dir(Path("/home/flux")) == Path("/home/flux/edge/WLCE")
    assert site.config.platform.database_url_env == "FLUX_DATABASE_URL"


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    text = (
        "site: WLCE\nplatform: {link: sql, database_url_env: WLCE_URL}\nstate_dir: state\ntemplates_dir: templates\n"
        "recording: {polling_interval: 30s, largest_batch: 100, memory_readings: 1000}\n" + PLAN
    )
    site = load_site_file(site_file(tmp_path, text))
    assert site.state_dir(Path("elsewhere")) == tmp_path / "state"
    assert site.templates_dir == tmp_path / "templates"
    assert site.config.controller is not None
    assert site.config.controller.bess == ("WLCE-BESS-01",)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("site: WLCE\nrecordin: {}\n", r"site.yaml:2: recordin: unknown key; did you mean 'recording'"),
        ("site: WLCE\nplatform: {link: carrier-pigeon}\n", r"site.yaml:2: platform.link: 'carrier-pigeon': "),
        ("platform: {link: sql}\n", r"site.yaml:1: site: is missing"),
        ("site: WLCE\nrecording:\n  polling_interval: 60\n", r"site.yaml:3: recording.polling_interval: 60: .*no unit"),
        ("site: WLCE\nrecording: {polling_interval: 10ms}\n", r"polling_interval: '10ms': must be from 100ms to 1d"),
        ("site: WLCE\nplatform: {database_url_env: 'postgresql://me:secret@host/db'}\n", r"database_url_env: "),
        ("site: WLCE\ncontroller: {site_meter: A}\n", r"site.yaml:2: controller.bess: is missing"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        load_site_file(site_file(tmp_path, text))


def test_overlapping_periods_of_a_mode_are_told_with_their_line(tmp_path: Path) -> None:
    twice = 'periods: [{start: "00:00", end: "12:00"}, {start: "11:00", end: "13:00"}]'
    text = "site: WLCE\n" + PLAN.replace('periods: [{days: all, start: "00:00", end: "24:00"}]', twice, 1)
    with pytest.raises(InputError, match=r"site.yaml:\d+: controller\.modes\[0\]\.periods\[1\]: .*overlaps"):
        load_site_file(site_file(tmp_path, text))


def test_the_schema_accepts_what_the_edge_accepts() -> None:
    schema = site_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    good: dict[str, Any] = {"site": "WLCE", "recording": {"polling_interval": "30s"}}
    jsonschema.validate(good, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(good | {"recordin": {}}, schema)


def keys_of(schema: dict[str, Any], definitions: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for name, part in schema.get("properties", {}).items():
        keys.append(prefix + name)
        if name != "controller":  # docs/control.md has those
            target = part.get("$ref", "").rpartition("/")[2]
            keys += keys_of(definitions.get(target, {}), definitions, f"{prefix}{name}.")
    return keys


def test_every_key_is_documented_and_every_documented_key_exists() -> None:
    schema = site_schema()
    keys = keys_of(schema, schema["$defs"])
    section = DOCS.read_text().partition("## site.yaml")[2].partition("## Polling")[0]
    documented = re.findall(r"^\| `([a-z_.]+)` \|", section, re.MULTILINE)
    assert sorted(documented) == sorted(keys)
