"""Reading through the clients: filters, embedding, order, ranges, counts, shapes, functions."""

from typing import Any

from tests.api.chains import rpc, table
from tests.api.client_cases import EVERY, JAVASCRIPT, PYTHON, Case, Client

_NAMES = "SELECT name FROM flux.mg_device_registry WHERE {} ORDER BY name"
_NOTE = 'roof "B", 12% (tilted)'
_SPAN = {"start_time": "2026-01-15T11:00:00Z", "end_time": "2026-01-15T12:00:00Z"}
_BUCKETS = "flux.get_meter_readings_5m('2026-01-15 11:00Z', '2026-01-15 12:00Z')"


def _where(name: str, calls: Any, condition: str, only: frozenset[Client] = EVERY) -> Case:
    """A filter on devices."""
    return Case(name, calls.order("name"), _NAMES.format(condition), only=only)


def _prices(calls: Any, condition: str) -> Case:
    """A filter on the wholesale prices of the fleet."""
    sql = f"SELECT value FROM flux.market_data WHERE type = 2 AND {condition} ORDER BY value"
    return Case(condition, calls.eq("type", 2).order("value"), sql)


_P = table("market_data").select("value")
_D = table("mg_device_registry").select("name")

FILTERS = (
    _prices(_P.eq("value", 70.25), "value = 70.25"),
    _prices(_P.neq("value", 70.25), "value <> 70.25"),
    _prices(_P.gt("value", 70.25), "value > 70.25"),
    _prices(_P.gte("value", 70.25), "value >= 70.25"),
    _prices(_P.lt("value", 70.25), "value < 70.25"),
    _prices(_P.lte("value", 70.25), "value <= 70.25"),
    _prices(_P.gte("time", "2026-01-15T10:00:00Z").lt("time", "2026-01-15T11:00:00+00:00"),
            "time >= '2026-01-15 10:00Z' AND time < '2026-01-15 11:00Z'"),
    _prices(_P.in_("value", [70.25, 68.25, -1]), "value IN (70.25, 68.25, -1)"),
    _prices(_P.not_.in_("value", [70.25, 68.25]), "value NOT IN (70.25, 68.25)"),
    _prices(_P.or_("value.lt.66,value.gt.71"), "(value < 66 OR value > 71)"),
    _prices(_P.or_("value.lt.66,and(value.gt.68,value.not.eq.69.25,or(value.lt.70,value.eq.71.25))"),
            "(value < 66 OR (value > 68 AND NOT value = 69.25 AND (value < 70 OR value = 71.25)))"),
    _prices(_P.or_("not.and(value.gt.66,value.lt.71)"), "NOT (value > 66 AND value < 71)"),
    _prices(_P.or_("value.in.(70.25,68.25),value.eq.66.25"), "(value IN (70.25, 68.25) OR value = 66.25)"),
    _prices(_P.is_("site", None), "site IS NULL"),
    _where("like", _D.like("name", "WLCE%"), "name LIKE 'WLCE%'"),
    _where("like with stars", _D.like("name", "*GRID*"), "name LIKE '%GRID%'"),
    _where("ilike", _D.ilike("name", "%grid%"), "name ILIKE '%grid%'"),
    _where("not like", _D.not_.like("name", "WLCE%"), "name NOT LIKE 'WLCE%'"),
    _where("like(all)", _D.like_all_of("name", "WLCE%,%METER"), "name LIKE 'WLCE%' AND name LIKE '%METER'"),
    _where("like(any)", _D.like_any_of("name", "%BESS%,%SOLAR%"), "name LIKE ANY ('{%BESS%,%SOLAR%}')"),
    _where("ilike(all)", _D.ilike_all_of("name", "wlce%,%meter"), "name ILIKE ALL ('{wlce%,%meter}')"),
    _where("ilike(any)", _D.ilike_any_of("name", "%bess%,%solar%"), "name ILIKE ANY ('{%bess%,%solar%}')"),
    _where("match", _D.filter("name", "match", "^WLCE-.*METER$"), "name ~ '^WLCE-.*METER$'"),
    _where("imatch", _D.filter("name", "imatch", "^wlce-.*meter$"), "name ~* '^wlce-.*meter$'"),
    _where("regexMatch", _D.match_regex("name", "BESS.0[1-3]"), "name ~ 'BESS.0[1-3]'", only=JAVASCRIPT),
    _where("notIn", _D.not_in("name", ["WLCE-BESS-01"]), "name <> 'WLCE-BESS-01'", only=JAVASCRIPT),
    _where("is true", _D.is_("active", True), "active IS TRUE"),
    _where("is false", _D.is_("active", False), "active IS FALSE"),
    _where("is not null", _D.not_.is_("metadata->>note", "null"), "metadata->>'note' IS NOT NULL"),
    _where("isdistinct", _D.filter("metadata->>note", "isdistinct", "CANARY"),
           "metadata->>'note' IS DISTINCT FROM 'CANARY'"),
    _where("isDistinct", _D.is_distinct("site", "HMCE"), "site IS DISTINCT FROM 'HMCE'", only=JAVASCRIPT),
    _where("quoted value", _D.in_("metadata->>note", [_NOTE, "x,y"]), f"metadata->>'note' = '{_NOTE}'", only=PYTHON),
    _where("awkward value", _D.eq("metadata->>note", _NOTE), f"metadata->>'note' = '{_NOTE}'"),
    _where("quotes in or", _D.or_(r'metadata->>note.eq."roof \"B\", 12% (tilted)",name.eq.HMCE-BESS-01'),
           f"metadata->>'note' = '{_NOTE}' OR name = 'HMCE-BESS-01'"),
    _where("JSON number", _D.gt("metadata->capacity_kwh", 300), "metadata->'capacity_kwh' > '300'"),
    _where("JSON text", _D.eq("metadata->>capacity_kwh", 500), "metadata->>'capacity_kwh' = '500'"),
    _where("JSON contains", _D.contains("metadata", {"phases": 3}), """metadata @> '{"phases": 3}'"""),
    _where("JSON contained", _D.contained_by("metadata", {"meter_type": "grid", "note": "CANARY", "x": [1]}),
           """metadata <@ '{"meter_type": "grid", "note": "CANARY", "x": [1]}'"""),
    _where("several on one column", _D.gt("name", "HMCE-C").lt("name", "WLCE-C"),
           "name > 'HMCE-C' AND name < 'WLCE-C'"),
    _where("match of several", _D.match({"site": "WLCE", "type": "meter"}), "site = 'WLCE' AND type = 'meter'"),
    _where("text of every script", _D.eq("name", "größe €✓ 电池"), "false"),
    _where("nothing is in an empty list", _D.in_("name", []), "false"),
    *(
        Case(
            f"{operator} on an array",
            getattr(table("control_decisions").select("reason", "limits"), operator)("limits", values)
            .order("reason").order("time"),
            f"SELECT reason, limits FROM flux.control_decisions WHERE limits {sql} ORDER BY reason, time",
        )
        for operator, values, sql in (
            ("contains", ["soe_max"], "@> '{soe_max}'"),
            ("contained_by", ["inverter", "soe_min"], "<@ '{inverter,soe_min}'"),
            ("overlaps", ["inverter", "soe_min"], "&& '{inverter,soe_min}'"),
        )
    ),
)  # fmt: skip

_HEALTH = table("device_health")
_READINGS = table("mg_meter_readings")
_OF_GRID = "JOIN flux.mg_device_registry d ON d.id = r.device_id AND d.name = 'WLCE-GRID-METER'"

SELECTING = (
    Case("every column of a table", table("sites").select("*").order("site"), "SELECT * FROM flux.sites ORDER BY site"),
    Case(
        "every column without naming any",
        table("sites").select().order("site"),
        "SELECT * FROM flux.sites ORDER BY site",
    ),
    Case(
        "aliases, casts and JSON paths",
        table("mg_device_registry")
        .select("device:name", "active::text", "metadata->>manufacturer", "kwh:metadata->capacity_kwh")
        .eq("type", "bess")
        .order("name"),
        """SELECT name AS device, active::text, metadata->>'manufacturer' AS manufacturer,
                  metadata->'capacity_kwh' AS kwh
           FROM flux.mg_device_registry WHERE type = 'bess' ORDER BY name""",
    ),
    Case(
        "nulls first",
        _HEALTH.select("response_time_ms").order("response_time_ms", nullsfirst=True).limit(7),
        "SELECT response_time_ms FROM flux.device_health ORDER BY response_time_ms NULLS FIRST LIMIT 7",
    ),
    Case(
        "descending, nulls last",
        _HEALTH.select("response_time_ms").order("response_time_ms", desc=True, nullsfirst=False).limit(17),
        "SELECT response_time_ms FROM flux.device_health ORDER BY response_time_ms DESC NULLS LAST LIMIT 17",
    ),
    Case(
        "order by several, one of them a JSON path",
        table("mg_device_registry").select("name").order("metadata->>meter_type").order("name", desc=True),
        "SELECT name FROM flux.mg_device_registry ORDER BY metadata->>'meter_type', name DESC",
    ),
    Case(
        "limit and offset",
        _P.eq("type", 2).order("value").range(2, 4),
        "SELECT value FROM flux.market_data WHERE type = 2 ORDER BY value OFFSET 2 LIMIT 3",
    ),
    Case(
        "a limit of none",
        _P.eq("type", 2).limit(0),
        "SELECT value FROM flux.market_data WHERE false",
    ),
    Case(
        "an exact count of a page",
        table("market_data").select("value", count="exact").eq("type", 2).order("value").range(0, 1),
        "SELECT value FROM flux.market_data WHERE type = 2 ORDER BY value LIMIT 2",
        count_sql="SELECT count(*) FROM flux.market_data WHERE type = 2",
    ),
    Case(
        "a count alone",
        table("mg_meter_readings").select("time", count="exact", head=True),
        shape="nothing",
        count_sql="SELECT count(*) FROM flux.mg_meter_readings",
    ),
    Case(
        "an estimated count",
        table("market_data").select("value", count="estimated").eq("type", 2).order("value"),
        "SELECT value FROM flux.market_data WHERE type = 2 ORDER BY value",
        count_sql="SELECT count(*) FROM flux.market_data WHERE type = 2",
    ),
    Case(
        "one row as an object",
        table("sites").select("site", "name").eq("site", "HMCE").single(),
        "SELECT site, name FROM flux.sites WHERE site = 'HMCE'",
        shape="one",
    ),
    Case("no row as an object", table("sites").select("*").eq("site", "NONE").single(), error="PGRST116"),
    Case("two rows as an object", table("sites").select("*").single(), error="PGRST116"),
    Case(
        "perhaps one row: one",
        table("sites").select("site").eq("site", "HMCE").maybe_single(),
        "SELECT 'HMCE' AS site",
        shape="one",
    ),
    Case("perhaps one row: none", table("sites").select("site").eq("site", "X").maybe_single(), shape="nothing"),
    # (the clients find out by themselves that there are two, and each has a code of its own for it)
    Case("perhaps one row: two", table("sites").select("site").maybe_single(), error="PGRST116", only=JAVASCRIPT),
    Case("perhaps one row: two, in Python", table("sites").select("site").maybe_single(), error="406", only=PYTHON),
    Case(
        "CSV",
        table("mg_device_registry").select("name", "metadata->>note", "active").order("name").csv(),
        "SELECT name, metadata->>'note' AS note, active FROM flux.mg_device_registry ORDER BY name",
        shape="csv",
    ),
    Case(
        "nulls left out",
        _HEALTH.select("error_count", "response_time_ms").order("error_count").limit(17).strip_nulls(),
        """SELECT json_strip_nulls(row_to_json(t)) FROM (SELECT error_count, response_time_ms
           FROM flux.device_health ORDER BY error_count LIMIT 17) t""",
    ),
    Case(
        "readings of one device in a span",
        _READINGS.select("time", "power_total_active", "energy_imported_active", "mg_device_registry!inner(name)")
        .eq("mg_device_registry.name", "WLCE-GRID-METER")
        .gte("time", "2026-01-15T11:30:00Z")
        .lt("time", "2026-01-15T11:40:00Z")
        .order("time"),
        f"""SELECT time, power_total_active, energy_imported_active,
                   json_build_object('name', d.name) AS mg_device_registry
            FROM flux.mg_meter_readings r {_OF_GRID}
            WHERE time >= '2026-01-15 11:30Z' AND time < '2026-01-15 11:40Z' ORDER BY time""",
    ),
    Case("no such table", table("no_such_table").select("*"), error="PGRST205"),
    Case("no such column", table("sites").select("no_such_column"), error="42703"),
    Case("a filter on no such column", table("sites").select("site").eq("no_such_column", 1), error="42703"),
    Case("a value of the wrong type", _P.eq("value", "high"), error="22P02"),
    Case("a filter that cannot be parsed", table("sites").select("site").or_("site.eq.A,"), error="PGRST100"),
    Case("nothing to embed", table("sites").select("site,market_data_types(name)"), error="PGRST200"),
)

_D_ALONE = table("mg_device_registry").select("name, device_group_members()")
_MEMBERS = """SELECT json_agg(json_build_object('name', d.name) ORDER BY d.name)
    FROM flux.device_group_members m JOIN flux.mg_device_registry d ON d.id = m.device_id WHERE m.group_id = g.id"""
_OF_SITE = "SELECT json_agg(json_build_object('name', name) ORDER BY name) FROM flux.mg_device_registry d"

EMBEDDING = (
    Case(
        "to one",
        table("mg_device_registry").select("name, sites(site, name)").order("name"),
        """SELECT d.name, json_build_object('site', s.site, 'name', s.name) AS sites
           FROM flux.mg_device_registry d JOIN flux.sites s USING (site) ORDER BY d.name""",
    ),
    Case(
        "to one, by the name of its key, renamed",
        table("mg_device_registry").select("name, at:sites!mg_device_registry_site_fkey(site)").order("name"),
        "SELECT name, json_build_object('site', site) AS at FROM flux.mg_device_registry ORDER BY name",
    ),
    Case(
        "to many",
        table("sites")
        .select("site, mg_device_registry(name)")
        .order("site")
        .order("name", foreign_table="mg_device_registry"),
        f"SELECT site, ({_OF_SITE} WHERE d.site = s.site) AS mg_device_registry FROM flux.sites s ORDER BY site",
    ),
    Case(
        "to many, filtered and limited inside",
        table("sites")
        .select("site, mg_device_registry(name)")
        .eq("mg_device_registry.type", "meter")
        .order("name", desc=True, foreign_table="mg_device_registry")
        .limit(1, foreign_table="mg_device_registry")
        .order("site"),
        """SELECT site, (SELECT json_agg(json_build_object('name', name)) FROM (
               SELECT name FROM flux.mg_device_registry d WHERE d.site = s.site AND type = 'meter'
               ORDER BY name DESC LIMIT 1) t) AS mg_device_registry
           FROM flux.sites s ORDER BY site""",
    ),
    Case(
        "to many, only where there is one",
        table("sites").select("site, mg_device_registry!inner(name)").eq("mg_device_registry.name", "WLCE-SOLAR-METER"),
        """SELECT site, json_build_array(json_build_object('name', 'WLCE-SOLAR-METER')) AS mg_device_registry
           FROM flux.sites WHERE site = 'WLCE'""",
    ),
    Case(
        "to many, where there is none",
        table("mg_device_registry")
        .select("name, device_group_members()")
        .is_("device_group_members", None)
        .order("name"),
        """SELECT name FROM flux.mg_device_registry d
           WHERE NOT EXISTS (SELECT FROM flux.device_group_members WHERE device_id = d.id) ORDER BY name""",
    ),
    Case(
        "many to many",
        table("device_groups")
        .select("name, mg_device_registry(name)")
        .order("name")
        .order("name", foreign_table="mg_device_registry"),
        f"SELECT name, ({_MEMBERS}) AS mg_device_registry FROM flux.device_groups g ORDER BY name",
    ),
    Case(
        "three tables deep",
        table("device_groups")
        .select("name, device_group_members(role, mg_device_registry(name, sites(name)))")
        .order("priority", foreign_table="device_group_members")
        .order("name"),
        """SELECT name, (SELECT json_agg(json_build_object('role', m.role, 'mg_device_registry', json_build_object(
                   'name', d.name, 'sites', json_build_object('name', s.name))) ORDER BY m.priority)
               FROM flux.device_group_members m JOIN flux.mg_device_registry d ON d.id = m.device_id
               JOIN flux.sites s USING (site) WHERE m.group_id = g.id) AS device_group_members
           FROM flux.device_groups g ORDER BY name""",
    ),
    Case(
        "columns of the other table beside one's own",
        table("mg_device_registry").select("name, ...sites(site_name:name)").order("name"),
        """SELECT d.name, s.name AS site_name FROM flux.mg_device_registry d JOIN flux.sites s USING (site)
           ORDER BY d.name""",
    ),
    Case(
        "order by a column of the other table",
        table("mg_device_registry").select("name, sites(name)").order("sites(name)", nullsfirst=True).order("name"),
        """SELECT d.name, json_build_object('name', s.name) AS sites FROM flux.mg_device_registry d
           JOIN flux.sites s USING (site) ORDER BY s.name NULLS FIRST, d.name""",
    ),
    Case(
        "or inside",
        table("sites")
        .select("site, mg_device_registry(name)")
        .or_("name.ilike.%bess%,metadata->>meter_type.eq.generation", reference_table="mg_device_registry")
        .order("name", foreign_table="mg_device_registry")
        .order("site"),
        f"""SELECT site, ({_OF_SITE} WHERE d.site = s.site AND (name ILIKE '%bess%'
                OR metadata->>'meter_type' = 'generation')) AS mg_device_registry FROM flux.sites s ORDER BY site""",
    ),
    Case(
        "to one that is null",
        table("market_data").select("value, sites(site)").eq("value", 71.25),
        "SELECT 71.25::float AS value, NULL AS sites",
    ),
)

FUNCTIONS = (
    Case(
        "a function",
        rpc("get_meter_readings_5m", _SPAN).select("time_b", "device_id", "samples").order("device_id").order("time_b"),
        f"SELECT time_b, device_id, samples FROM {_BUCKETS} ORDER BY device_id, time_b",
    ),
    Case(
        "a function by GET, filtered and counted",
        rpc("get_meter_readings_30m", _SPAN, get=True, count="exact")
        .select("device_id", "energy_imported_active_delta")
        .gt("samples", 0)
        .order("device_id")
        .order("time_b", desc=True)
        .limit(3),
        """SELECT device_id, energy_imported_active_delta
           FROM flux.get_meter_readings_30m('2026-01-15 11:00Z', '2026-01-15 12:00Z') WHERE samples > 0
           ORDER BY device_id, time_b DESC LIMIT 3""",
        count_sql="""SELECT count(*) FROM flux.get_meter_readings_30m('2026-01-15 11:00Z', '2026-01-15 12:00Z')
                     WHERE samples > 0""",
    ),
    Case(
        "the count of a function alone",
        rpc("get_meter_readings_1h", _SPAN, head=True, count="exact"),
        shape="nothing",
        count_sql="SELECT count(*) FROM flux.get_meter_readings_1h('2026-01-15 11:00Z', '2026-01-15 12:00Z')",
    ),
    Case(
        "a function as CSV",
        rpc("get_meter_readings_1h", _SPAN).select("device_id", "samples").order("device_id").csv(),
        """SELECT device_id, samples FROM flux.get_meter_readings_1h('2026-01-15 11:00Z', '2026-01-15 12:00Z')
           ORDER BY device_id""",
        shape="csv",
        only=JAVASCRIPT,
    ),
    Case("no such function", rpc("drop_everything", {}), error="PGRST202"),
    Case("a function without such a parameter", rpc("get_meter_readings_5m", {"sites": "WLCE"}), error="PGRST202"),
    Case("a parameter of the wrong type", rpc("get_meter_readings_5m", {"start_time": "soon"}), error="22007"),
)
