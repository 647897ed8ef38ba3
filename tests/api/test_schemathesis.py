"""schemathesis against the two descriptions that the server gives of itself: no answer is a 5xx, none takes long."""

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from tests.api.live import LiveServer

SLOWEST_S = 20
DESCRIPTIONS = {"rest": ("/rest/v1/", "/rest/v1"), "typed": ("/openapi.json", "")}


def _ask_everything(server: LiveServer, which: str, examples: int) -> tuple[int, list[str]]:
    """So many examples of each operation; how many operations there are, and those that no example was found for."""
    path, base = DESCRIPTIONS[which]
    headers = server.headers("service", ["WLCE"])
    description = httpx.get(f"{server.url}{path}", headers=headers).json()
    found: Any = schemathesis.openapi.from_dict(description).get_all_operations()
    operations = [one.ok() for one in found]  # which raises for what the description says wrongly
    unasked = []
    for operation in operations:
        try:
            _try(operation, f"{server.url}{base}", headers, examples)
        except Unsatisfiable:  # its generator throws away whatever it thinks of
            unasked.append(operation.label)
    return len(operations), unasked


def _try(operation: Any, base_url: str, headers: dict[str, str], examples: int) -> None:
    @seed(1)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        for part in (case.query, case.body):
            if isinstance(part, dict):
                part.pop("wait", None)  # seconds until there is something to say, as many as the caller likes
        case.call_and_validate(
            base_url=base_url, headers=headers, checks=[not_a_server_error], timeout=SLOWEST_S, stream=False
        )

    ask()


@pytest.mark.long
@pytest.mark.parametrize("which", DESCRIPTIONS)
def test_no_operation_fails(fleet_server: LiveServer, which: str) -> None:
    count, unasked = _ask_everything(fleet_server, which, examples=25)
    assert count > 10
    assert len(unasked) < count / 10, unasked  # PUT of some tables: the wild requests of test_fuzz.py have them
