"""The examples in the docs run as printed, against a live server with the fleet of the tests.

FLUX_URL and FLUX_KEY (a service key) are what the pages tell their readers to set; FLUX_READER_KEY, FLUX_OPERATOR_KEY
and FLUX_EDGE_KEY (of WLCE) are there too, and FLUX_WEBHOOK_SECRET (of source axle).

A page that says ``$FLUX_URL`` is run; :mod:`tests.docs_runner` says what is
an example.
"""

from pathlib import Path

import pytest
from tests import clients
from tests.api.fleet import fill_fleet
from tests.api.live import live_server_on
from tests.docs_runner import examples, link_packages, run_page

from flux.api.webhook_sources import add_source

ROOT = Path(__file__).parents[2]
PAGES = [
    page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if "$FLUX_URL" in page.read_text()
]


QUICK = {"clients.md"}
"""What `make test` runs; `make test-long` runs the others."""


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=() if page.name in QUICK else pytest.mark.long, id=page.stem) for page in PAGES],
)
def test_the_examples_of_a_page_run(page: Path, dsn: str, tmp_path: Path) -> None:
    if any(block.language == "js" for block in examples(page)):
        if (reason := clients.missing()) is not None:
            pytest.skip(f"JavaScript: {reason}")
        link_packages(tmp_path)
    fill_fleet(dsn)
    webhooks = tmp_path / "webhooks.yaml"
    secret = add_source(webhooks, "axle", ["WLCE"])
    with live_server_on(dsn, webhooks_file=webhooks) as server:
        environment = {
            "FLUX_WEBHOOK_SECRET": secret,
            "FLUX_URL": server.url,
            "FLUX_KEY": server.key(),
            "FLUX_READER_KEY": server.key("authenticated"),
            "FLUX_OPERATOR_KEY": server.key("operator"),
            "FLUX_EDGE_KEY": server.key("edge", ["WLCE"]),
        }
        run_page(page, environment, tmp_path)


_OF_ENDPOINTS = [page for page in sorted((ROOT / "docs").glob("api-*.md")) if page.stem != "api-security"]


@pytest.mark.parametrize("page", _OF_ENDPOINTS, ids=lambda page: page.stem)
def test_a_page_of_endpoints_has_examples_in_every_language(page: Path) -> None:
    written = {block.language for block in examples(page)}
    assert written >= ({"python", "js"} if page.stem == "api-realtime" else {"sh", "python", "js"})
