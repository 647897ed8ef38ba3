"""What a request can name: read from a database, found by its names, told apart by hints."""

from typing import Any

import pytest
from psycopg import AsyncConnection

from flux.api.identity import Role
from flux.api.rest.catalogue import Cardinality, Catalogue, Relationship, Verb
from flux.api.rest.catalogue_load import load_catalogue
from flux.api.rest.errors import ApiError


async def test_a_view_has_the_keys_of_its_table(db: AsyncConnection[Any]) -> None:
    catalogue = await load_catalogue(db)
    registry = catalogue.table("mg_device_registry")
    assert registry.primary_key == ("id",)
    assert registry.columns["metadata"].is_json
    assert registry.columns["id"].default == "gen_random_uuid()"
    assert Verb.SELECT in registry.rights[Role.AUTHENTICATED]
    assert Role.ANON not in registry.rights
    assert catalogue.table("market_data").unique_keys == (("id",), ("type", "site", "time"))
    rollups = catalogue.relationship("mg_meter_readings_1h", "mg_device_registry")
    assert (rollups.columns, rollups.to_one) == ((("device_id", "id"),), True)
    between = catalogue.relationship("mg_device_registry", "device_groups")
    assert between.through is not None
    assert (between.cardinality, between.through.table) == (Cardinality.MANY_TO_MANY, "device_group_members")
    for name, table in catalogue.tables.items():
        if "device_id" in table.columns and name != "mg_device_registry":
            assert catalogue.relationship(name, "mg_device_registry").to_one


def _two_ways() -> Catalogue:
    """Flows from one site to another: two keys to one table."""
    ways = tuple(
        Relationship("flows", "sites", Cardinality.MANY_TO_ONE, f"flows_{column}_fkey", ((column, "site"),))
        for column in ("source", "sink")
    )
    parents = (
        Relationship("groups", "groups", Cardinality.MANY_TO_ONE, "parent_fkey", (("parent_id", "id"),)),
        Relationship("groups", "groups", Cardinality.ONE_TO_MANY, "parent_fkey", (("id", "parent_id"),)),
    )
    return Catalogue({}, {"flows": ways, "groups": parents}, (), frozenset())


def test_an_ambiguous_resource_names_the_choices() -> None:
    catalogue = _two_ways()
    with pytest.raises(ApiError) as refused:
        catalogue.relationship("flows", "sites")
    assert (refused.value.status, refused.value.code) == (300, "PGRST201")
    assert refused.value.hint is not None
    assert "'sites!flows_source_fkey', 'sites!flows_sink_fkey'" in refused.value.hint
    assert refused.value.details[0] == {
        "embedding": "flows with sites",
        "cardinality": "many-to-one",
        "relationship": "flows_source_fkey using flows(source) and sites(site)",
    }


@pytest.mark.parametrize(
    ("target", "hint"), [("sites", "flows_sink_fkey"), ("sites", "sink"), ("sink", None), ("flows_sink_fkey", None)]
)
def test_a_hint_tells_which(target: str, hint: str | None) -> None:
    assert _two_ways().relationship("flows", target, hint).name == "flows_sink_fkey"


def test_a_table_with_itself() -> None:
    catalogue = _two_ways()
    assert catalogue.relationship("groups", "groups").cardinality is Cardinality.ONE_TO_MANY
    assert catalogue.relationship("groups", "parent_id").cardinality is Cardinality.MANY_TO_ONE
    assert catalogue.relationship("groups", "groups", "parent_id").cardinality is Cardinality.ONE_TO_MANY
