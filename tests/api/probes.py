"""A row of every table for each of two sites, and statements that try what a session may do with them."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid5

from psycopg import Connection, sql
from psycopg.types.json import Jsonb
from tests.support import NOON

from flux.store.rights import TABLES, Fence, Table

SITES = ("WLCE", "HMCE")
SHARED = "shared"
"""The target that is of no site: a price for all sites, a template, a group that spans sites."""
_SPACE = UUID("6f1f7e2a-0000-4000-8000-000000000000")
LATER = NOON.replace(hour=13)

_TRY = """
    CREATE FUNCTION pg_temp.try(statements text[]) RETURNS text[] LANGUAGE plpgsql AS $$
    DECLARE
        one   text;
        found bigint;
        told  text;
        said  text[];
    BEGIN
        FOREACH one IN ARRAY statements LOOP
            BEGIN
                EXECUTE one;
                GET DIAGNOSTICS found = ROW_COUNT;
                RAISE SQLSTATE 'UNDOO' USING MESSAGE = found::text;
            EXCEPTION
                WHEN SQLSTATE 'UNDOO' THEN told := SQLERRM;
                WHEN insufficient_privilege OR with_check_option_violation THEN told := 'denied';
                WHEN object_not_in_prerequisite_state THEN  -- a view that nothing can be written through
                    told := 'denied';
                WHEN unique_violation THEN told := '1';  -- it may, there is one already
                WHEN others THEN told := SQLSTATE || ' ' || SQLERRM;
            END;
            said := said || told;
        END LOOP;
        RETURN said;
    END $$
"""


def try_each(conn: Connection[Any], statements: list[str]) -> list[str]:
    """What becomes of each statement, none of which stays: rows touched, ``denied``, or another error."""
    conn.execute(_TRY.encode())
    ((said,),) = conn.execute("SELECT pg_temp.try(%s)", (statements,)).fetchall()
    return list(said)


def thing(kind: str, target: str) -> UUID:
    """The id of the thing of this kind at a site; the same each time."""
    return uuid5(_SPACE, f"{kind} {target}")


def fill(conn: Connection[Any]) -> None:
    """A meter and a battery at each site, and a row in every table that can be written."""
    for site in SITES:
        for kind in ("meter", "bess"):
            conn.execute(
                "INSERT INTO flux.mg_device_registry (id, name, type, site) VALUES (%s, %s, %s, %s)",
                (thing(kind, site), f"{site}-{kind}", kind, site),
            )
            conn.execute("UPDATE flux.mg_device_registry SET metadata = '{\"note\": 1}' WHERE site = %s", (site,))
    for table in TABLES:
        if table.series:
            conn.execute(
                "SELECT flux.ensure_partitions(%s::text::regclass, %s, %s)", (f"flux.{table.name}", NOON, LATER)
            )
    for table in TABLES:
        for target in (*SITES, SHARED):
            row = stored_row(table.name, target)
            if row is not None:
                conn.execute(insert("flux", table.name, row))
    _make_actors(conn)


def _make_actors(conn: Connection[Any]) -> None:
    """The battery of each site acts for the site's group."""
    for state in ("configured", "testing", "active"):
        conn.execute("UPDATE flux.mg_device_registry SET state = %s WHERE state <> %s", (state, state))
    conn.execute("UPDATE flux.device_groups SET type = 'control'")


def insert(schema: str, table: str, row: dict[str, Any]) -> sql.Composed:
    return sql.SQL("INSERT INTO {} ({}) {} VALUES ({})").format(
        sql.Identifier(schema, table),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL("OVERRIDING SYSTEM VALUE" if schema == "flux" and "id" in row else ""),
        sql.SQL(", ").join(sql.Literal(value) for value in row.values()),
    )


@dataclass(frozen=True, slots=True)
class _Sample:
    """A row of a table: ``stored`` is there from the start, ``new`` is one that a client adds."""

    stored: dict[str, Any] | None
    new: dict[str, Any] = field(default_factory=dict)


def stored_row(table: str, target: str) -> dict[str, Any] | None:
    """The row of ``target`` that :func:`fill` puts there; None: none, or it is there by itself."""
    return _sample(table, target).stored


def new_row(table: str, target: str) -> dict[str, Any]:
    """A row of ``target`` that is not there yet."""
    return _sample(table, target).new


def _sample(table: str, target: str) -> _Sample:
    if target == SHARED:
        return _shared(table)
    meter, bess = thing("meter", target), thing("bess", target)
    span = {"starts_at": NOON, "ends_at": LATER}
    windows = {"device_id": meter, "starts_at": LATER, "duration": "1 hour"}
    rejected = {"device_id": meter, "time": NOON, "reason": "conflict", "detail": "d"}
    decided = {
        "active": [],
        "limits": [],
        "reason": "r",
        "stale": False,
        "events": [],
        "faults": [],
        "plan_hash": target,
    }
    decision = {"device_id": bess, **decided, "inputs": Jsonb({})}
    key = {"role": "edge", "sites": [target], "created_by": "test"}
    samples = {
        "sites": _Sample(None, {"site": target}),
        "mg_device_registry": _Sample(None, {"name": f"{target}-new", "type": "meter", "site": target}),
        "device_groups": _Sample(
            {"id": thing("group", target), "name": target, "site": target}, {"name": "new", "site": target}
        ),
        "device_group_members": _Sample(
            {"group_id": thing("group", target), "device_id": meter},
            {"group_id": thing("group", target), "device_id": bess},
        ),
        "device_health": _Sample(
            {"device_id": meter, "timestamp": NOON, "status": "online"},
            {"device_id": meter, "timestamp": LATER, "status": "online"},
        ),
        "maintenance_windows": _Sample({"id": thing("window", target), **windows}, windows),
        "alerts": _Sample({"key": target, "severity": "info", "site": target, "text": "t", "raised_at": NOON}),
        "mg_meter_readings": _Sample({"device_id": meter, "time": NOON}, {"device_id": meter, "time": LATER}),
        "mg_bess_readings": _Sample({"device_id": bess, "time": NOON}, {"device_id": bess, "time": LATER}),
        "counter_events": _Sample(
            {
                "device_id": meter,
                "counter": "energy_imported_active",
                "time": NOON,
                "kind": "restart",
                "value": 1,
                "good_time": NOON,
                "good_value": 2,
            }
        ),
        "counter_rulings": _Sample(
            {"device_id": meter, "counter": "c", "time": NOON, "kind": "rise", "decided_by": "t"}
        ),
        "counter_ruling_history": _Sample(
            {"device_id": meter, "counter": "c", "time": NOON, "kind": "rise", "decided_by": "t"}
        ),
        "rollup_gaps": _Sample({"device_id": meter, "counter": "c", "from_time": NOON, "to_time": LATER, "step": 1}),
        "reading_marks": _Sample({"device_id": meter, "time": NOON, "metric": "m", "reason": "operator"}),
        "device_archives": _Sample({"device_id": meter, "file": "f", "rows": 1, "sha256": "s"}),
        "rejected_readings": _Sample(rejected | {"kind": "meter", "payload": Jsonb({})}),
        "rejected_decisions": _Sample(rejected | {"plan": "", "payload": "p", "reason": "impossible_value"}),
        "market_data": _Sample(
            {"time": NOON, "type": 4, "value": 1, "site": target},
            {"time": LATER, "type": 4, "value": 1, "site": target},
        ),
        "control_plans": _Sample({"hash": target, "body": Jsonb({"site_meter": f"{target}-meter"})}),
        "control_decisions": _Sample(decision | {"time": NOON}, decision | {"time": LATER}),
        "control_leases": _Sample({"site": target, "holder": "edge", "expires_at": LATER}),
        "dispatch_schedules": _Sample(
            {"site": target, "source": "axle", "position": 0, "action": "charge_max", **span},
            {"site": target, "source": "axle", "position": 1, "action": "charge_max", **span},
        ),
        "site_envelopes": _Sample(
            {"site": target, "import_limit_kw": 1, **span}, {"site": target, "export_limit_kw": 1, **span}
        ),
        "site_plans": _Sample({"site": target, "hash": target, "body": Jsonb({}), "actor": "test"}),
        "site_stops": _Sample(
            {"site": target, "actor": "test", "resumed_at": "2100-01-01Z", "resumed_by": "test"}, {"site": target}
        ),
        "edge_jobs": _Sample({"site": target, "kind": "scan", "created_by": "test", "expires_at": LATER}),
        "api_keys": _Sample({"id": thing("key", target), "name": target, **key}),
        "api_audit": _Sample({"sites": [target], "object": "sites", "verb": "UPDATE", "rows": 1, "role": "edge"}),
    }
    if "_readings_" in table and table not in samples:  # a level of the rollups
        return _Sample({"device_id": bess if "bess" in table else meter, "time_b": NOON, "samples": 1})
    return samples.get(table, _Sample(None))


def _shared(table: str) -> _Sample:
    template = {"hash": "h", "body": "b"}
    samples = {
        "device_templates": _Sample({"name": "stored", **template}, {"name": "new", **template}),
        "template_metrics": _Sample({"template": "stored", "metric": "m"}),
        "device_groups": _Sample(
            {"id": thing("group", SHARED), "name": "everywhere", "site": "ALL"}, {"name": "new", "site": "ALL"}
        ),
        "market_data_types": _Sample(None, {"id": 99, "name": "new", "description": "d", "unit": "u"}),
        "market_data": _Sample({"time": NOON, "type": 2, "value": 1}, {"time": LATER, "type": 2, "value": 1}),
        "alerts": _Sample({"key": "job:x", "severity": "info", "text": "t", "raised_at": NOON}),
        "worker_jobs": _Sample({"name": "rollups", "every_s": 60}),
        "rejected_readings": _Sample(
            {
                "device_id": thing("nothing", ""),
                "time": NOON,
                "reason": "unknown_device",
                "detail": "d",
                "kind": "meter",
                "payload": Jsonb({}),
            }
        ),
        "api_keys": _Sample({"id": thing("key", SHARED), "name": "all", "role": "service", "created_by": "test"}),
        "api_audit": _Sample({"object": "sites", "verb": "UPDATE", "rows": 1, "role": "service"}),
    }
    return samples.get(table, _Sample(None))


COLUMN = {
    Fence.SITE: "site",
    Fence.DEVICE: "device_id",
    Fence.SITE_OR_ALL: "site",
    Fence.GROUP: "site",
    Fence.MEMBER: "device_id",
    Fence.PLAN: "hash",
    Fence.REJECTED: "device_id",
    Fence.SHARED: "name",
    Fence.UNFENCED: "name",
    Fence.KEYS: "name",
}
"""A column of every table with this fence: set to itself, to see whether it may be."""


def of(table: Table, target: str) -> str | None:
    """The condition that finds the rows of ``target``; None: there are no such rows in this table."""
    meter, bess = thing("meter", target), thing("bess", target)
    match table.fence:
        case Fence.SITE | Fence.GROUP | Fence.SITE_OR_ALL if target in SITES:
            return f"site = '{target}'"
        case Fence.DEVICE | Fence.MEMBER | Fence.REJECTED if target in SITES:
            return f"device_id IN ('{meter}', '{bess}')"
        case Fence.GROUP:
            return "site = 'ALL'"
        case Fence.SITE_OR_ALL:
            return "site IS NULL"
        case Fence.SITE if table.name == "alerts":
            return "site IS NULL"
        case Fence.REJECTED if table.name == "rejected_readings":
            return "reason = 'unknown_device'"
        case Fence.PLAN if target in SITES:
            return f"hash = '{target}'"
        case Fence.KEYS:
            return f"sites = '{{{target}}}'" if target in SITES else "sites IS NULL"
        case Fence.SHARED | Fence.UNFENCED if target == SHARED:
            return "true"
        case _:
            return None
