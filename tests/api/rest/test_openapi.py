"""The description at the root, by itself: what each role finds in it, and that it is whole."""

import json
import re

from tests.api.rest.kit import Rest, identity

from flux.api.identity import Role
from flux.api.rest.catalogue import ColumnInfo, ForeignKey, Table, Verb
from flux.api.rest.functions import Argument, Function
from flux.api.rest.openapi import describe

SITES = Table(
    "sites",
    {
        "site": ColumnInfo("site", "text", "text", nullable=False, comment="Short code, e.g. WLCE."),
        "limit_kw": ColumnInfo("limit_kw", "double precision", "float8"),
        "extra": ColumnInfo("extra", "jsonb", "jsonb", nullable=False, default="'{}'::jsonb"),
    },
    ("site",),
    (("site",),),
    comment="One row for each site.",
    rights={Role.AUTHENTICATED: frozenset({Verb.SELECT}), Role.OPERATOR: frozenset(Verb)},
)
ALERTS = Table(
    "alerts",
    {"site": ColumnInfo("site", "text", "text"), "ids": ColumnInfo("ids", "uuid[]", "_uuid")},
    foreign_keys=(ForeignKey("alerts_site_fkey", "alerts", ("site",), "sites", ("site",)),),
    rights={Role.OPERATOR: frozenset({Verb.SELECT})},
)
HOURS = Function(
    "hours", (Argument("ids", "uuid[]", False),), "record", True, (("n", "integer"),), None, "s", "By hour.",
    frozenset({"flux_operator"}),
)  # fmt: skip


def test_it_says_what_the_callers_role_may_do_and_no_more() -> None:
    reader = describe([SITES, ALERTS], [HOURS], Role.AUTHENTICATED)
    assert {path: set(verbs) for path, verbs in reader["paths"].items()} == {"/": {"get"}, "/sites": {"get"}}
    operator = describe([SITES, ALERTS], [HOURS], Role.OPERATOR)
    assert {path: set(verbs) for path, verbs in operator["paths"].items()} == {
        "/": {"get"},
        "/sites": {"get", "post", "patch", "put", "delete"},
        "/alerts": {"get"},
        "/rpc/hours": {"get", "post"},
    }
    assert (operator["basePath"], "host" in reader) == ("/rest/v1", False)


def test_columns_have_types_comments_and_keys() -> None:
    definitions = describe([SITES, ALERTS], [], Role.OPERATOR)["definitions"]
    site = definitions["sites"]["properties"]["site"]
    assert (site["type"], site["format"]) == ("string", "text")
    assert site["description"] == "Short code, e.g. WLCE.\n\nNote:\nThis is a Primary Key.<pk/>"
    assert definitions["sites"]["required"] == ["site", "extra"]
    assert definitions["sites"]["properties"]["limit_kw"] == {
        "format": "double precision", "type": "number", "x-nullable": True,
    }  # fmt: skip
    assert "type" not in definitions["sites"]["properties"]["extra"]
    assert definitions["alerts"]["properties"]["ids"]["items"] == {"type": "string"}
    assert "<fk table='sites' column='site'/>" in definitions["alerts"]["properties"]["site"]["description"]


def test_everything_that_it_refers_to_is_there() -> None:
    description = describe([SITES, ALERTS], [HOURS], Role.OPERATOR)
    references = set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(description)))
    assert len(references) > 10
    for reference in references:
        section, _, name = reference.partition("/")
        assert name in description[section]


async def test_the_description_is_made_once_for_each_role_and_names_the_host_it_was_asked_by(rest: Rest) -> None:
    first, second = await rest.get("", host="one"), await rest.get("", host='two"')
    assert (first.json()["host"], second.json()["host"]) == ("one", 'two"')
    assert {**first.json(), "host": None} == {**second.json(), "host": None}
    reader = (await rest.get("", identity(Role.AUTHENTICATED))).json()
    assert "post" not in reader["paths"]["/sites"]
    assert "post" in first.json()["paths"]["/sites"]
