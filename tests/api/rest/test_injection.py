"""SQL in every position of the grammar where a client may write: it is a value, a name that is not there, or refused.

The caller sees WLCE only, so that any SQL that ran would show by what it found (``CANARY``), changed, or waited for.
"""

import time
from typing import Any
from urllib.parse import quote

import pytest
from psycopg import Connection
from tests.api.rest.kit import Rest, identity

from flux.api.identity import Role

READER = identity(Role.AUTHENTICATED, frozenset({"WLCE"}))
PAYLOADS = (
    "'; DROP TABLE flux.sites; --",
    "' OR '1'='1",
    "x' UNION SELECT row_to_json(s)::text FROM flux.sites s --",
    '"; SELECT pg_sleep(5); --',
    '" FROM flux.sites --',
    "1); SELECT pg_sleep(5); --",
    "$1",
    "$9",
    "%s%(p1)s{0}{}",
    "\\'; SELECT 1; --",
    "E'\\x27'",
    "name) FROM flux.sites --",
    "text) FROM flux.sites --",
    "/* */",
    "é'\u2019",
)
POSITIONS = (
    "{}",
    "mg_device_registry?{}=eq.1",
    "mg_device_registry?select={}",
    "mg_device_registry?select={}:name",
    'mg_device_registry?select="{}":name',
    "mg_device_registry?select=name::{}",
    "mg_device_registry?select=metadata->{}",
    'mg_device_registry?select=metadata->>"{}"',
    "mg_device_registry?select=metadata->a{}->0",
    "mg_device_registry?select={}(name)",
    'mg_device_registry?select="{}":sites(name)',
    "mg_device_registry?select=sites!{}(name)",
    "mg_device_registry?select=...sites({}:name)",
    "mg_device_registry?name=eq.{}",
    "mg_device_registry?name={}.x",
    "mg_device_registry?name=in.({})",
    'mg_device_registry?name=in.("{}",b)',
    "mg_device_registry?name=like(any).{}",
    "mg_device_registry?name=is.{}",
    "mg_device_registry?name=isdistinct.{}&limit=1&name=eq.x",
    "mg_device_registry?name=match.{}",
    "mg_device_registry?metadata=cs.{}",
    "mg_device_registry?name=fts({}).x",
    "mg_device_registry?name=wfts.{}",
    'mg_device_registry?metadata->>"{}"=eq.x',
    "mg_device_registry?or=(name.eq.{},site.eq.NONE)",
    'mg_device_registry?or=(name.eq."{}",site.eq.NONE)',
    "mg_device_registry?or=({}.eq.1)",
    "mg_device_registry?order={}",
    "mg_device_registry?order=name.{}",
    'mg_device_registry?order=metadata->>"{}"',
    "mg_device_registry?order=sites({})&select=sites(name)",
    "mg_device_registry?limit={}",
    "mg_device_registry?offset={}",
    "mg_device_registry?select=*,sites(*)&sites.name=eq.{}",
    "mg_device_registry?select=*,sites(*)&sites.{}=eq.1",
    "mg_device_registry?{}.limit=1",
)


def escaped(payload: str, position: str) -> str:
    """Within quotes of the grammar, as a client that means it would write it."""
    return payload.replace("\\", "\\\\").replace('"', '\\"') if '"{}"' in position else payload


@pytest.mark.parametrize("position", POSITIONS)
async def test_sql_is_never_more_than_a_value(rest: Rest, plain: Connection[Any], position: str) -> None:
    begun = time.monotonic()
    for payload in PAYLOADS:
        text = escaped(payload, position)
        path = position.replace("{}", quote(text, safe="").replace("%2E", "."))
        answer = await rest.get(path, READER)
        assert answer.status_code in {200, 400, 404, 416}, f"{path}: {answer.text}"
        assert "CANARY" not in answer.text
        assert "HMCE" not in answer.text
    assert time.monotonic() - begun < 5 * len(PAYLOADS) / 3, "something waited"
    assert plain.execute("SELECT count(*) FROM flux.sites").fetchone() == (2,)


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_a_value_is_compared_as_it_is(rest: Rest, plain: Connection[Any], payload: str) -> None:
    plain.execute("UPDATE flux.mg_device_registry SET metadata = jsonb_build_object('note', %s::text, %s::text, 1) "
                  "WHERE name = 'WLCE-BESS-01'", (payload, payload))  # fmt: skip
    inside = escaped(payload, '"{}"')
    for filtered in (
        f"metadata->>note=eq.{quote(payload)}",
        "metadata->>note=in.(" + quote(f'"{inside}"') + ",b)",
        "or=(metadata->>note.eq." + quote(f'"{inside}"') + ",name.eq.x)",
        "metadata->>" + quote(f'"{inside}"') + "=eq.1",
    ):
        answer = await rest.get(f"mg_device_registry?select=name&{filtered}", READER)
        assert answer.json() == [{"name": "WLCE-BESS-01"}], filtered
    alias = quote(f'"{inside}"')
    answer = await rest.get(f"mg_device_registry?select={alias}:name,sites({alias}:site)&name=eq.WLCE-BESS-01", READER)
    assert answer.json() == [{payload: "WLCE-BESS-01", "sites": {payload: "WLCE"}}]
