"""Who may do what with each table through the HTTP API: the one place that says so.

From :data:`TABLES` come the views of schema ``flux_api``, the policies of row-level security, the grants, the audit of
writes, and the table in ``docs/api-security.md``. A table that is not here cannot be reached through the API.
"""

from dataclasses import dataclass
from enum import Enum

API_ROLES = ("flux_anon", "flux_authenticated", "flux_operator", "flux_edge", "flux_service")
"""What a caller can be; rights on schema ``flux_api`` only."""
SERVER_ROLE = "flux_server"
"""What Flux's own functions run as on behalf of a caller; rights on schema ``flux``, fenced by its policies."""
VIEWS_ROLE = "flux_views"
"""Owns the views; nobody logs in or acts as it."""
ROLES = (*API_ROLES, SERVER_ROLE, VIEWS_ROLE)

VERBS = {"r": "SELECT", "i": "INSERT", "u": "UPDATE", "d": "DELETE"}

_ALL = "(SELECT flux.sees_all())"
_OWN_SITE = f"{_ALL} OR site = ANY ((SELECT flux.seen_sites())::text[])"
_OWN_DEVICE = f"{_ALL} OR device_id = ANY ((SELECT flux.seen_devices())::uuid[])"
_ANY = "(SELECT flux.sees_any())"
_OWN_SITES = f"{_ALL} OR sites <@ (SELECT flux.seen_sites())"


class Fence(Enum):
    """Which rows a caller sees, and which it may write (None: the same).

    Each question is put once for a query, in a subselect of its own; for a caller that sees all, the rest of the
    condition is never asked.
    """

    SITE = (_OWN_SITE, None)
    DEVICE = (_OWN_DEVICE, None)
    SITE_OR_ALL = (f"{_ALL} OR site = ANY ((SELECT flux.seen_sites())::text[]) OR (site IS NULL AND {_ANY})", _OWN_SITE)
    """A row without a site is for all: everybody reads it, who sees every site writes it."""
    GROUP = (f"{_ALL} OR site = ANY ((SELECT flux.seen_sites())::text[]) OR (site = 'ALL' AND {_ANY})", _OWN_SITE)
    MEMBER = (_OWN_DEVICE, f"{_ALL} OR (device_id = ANY ((SELECT flux.seen_devices())::uuid[]) "
              "AND group_id = ANY ((SELECT flux.seen_groups())::uuid[]))")  # fmt: skip
    PLAN = (f"{_ALL} OR body ->> 'site_meter' = ANY ((SELECT flux.seen_names())::text[])", _ANY)
    """A plan belongs to the site of its meter. It is named by its content and never changed: any edge may add one."""
    REJECTED = (
        f"{_ALL} OR (device_id = ANY ((SELECT flux.seen_devices())::uuid[]) AND reason <> 'unknown_device')",
        _ANY,
    )
    """What was refused is written down whatever device it names; whose that is, is for who sees every site."""
    SHARED = (_ANY, _ALL)
    """Of no site: everybody reads it; a change concerns all sites, so who sees every site writes it."""
    UNFENCED = (_ALL, None)
    KEYS = (_OWN_SITES, None)

    @property
    def words(self) -> str:
        """Which rows they are, for people."""
        return _WORDS[self.name]

    @property
    def sees(self) -> str:
        """The condition on a row for being read."""
        return str(self.value[0])

    @property
    def writes(self) -> str:
        """The condition on a row for being written, before and after."""
        return str(self.value[1] or self.value[0])


_WORDS = {
    "SITE": "own sites",
    "DEVICE": "own devices",
    "SITE_OR_ALL": "own sites; read: also those for all sites",
    "GROUP": "own sites; read: also those that span sites",
    "MEMBER": "own devices; written: in groups of own sites",
    "PLAN": "those whose meter is an own device",
    "REJECTED": "own devices",
    "SHARED": "all of them; written: with a key for every site",
    "UNFENCED": "with a key for every site",
    "KEYS": "limited to own sites",
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table or view of schema ``flux`` and the verbs (letters of :data:`VERBS`) that each role has on it.

    ``series``: kept in pieces of time, where row-level security cannot be (TimescaleDB refuses it with compression).
    ``stamped``: columns that say who did it; what clients write has the key's name there, whatever they send
    ("who:when": of whoever set the column ``when``). ``noted``: writes through the API are in the audit log.
    """

    name: str
    fence: Fence
    authenticated: str = "r"
    operator: str = "r"
    edge: str = ""
    service: str = "r"
    server: str = "r"
    series: bool = False
    view: bool = False
    stamped: tuple[str, ...] = ()
    updatable: tuple[str, ...] = ()
    """The only columns that an UPDATE may name; empty: all."""
    noted: bool = True

    def verbs(self, role: str) -> str:
        """The letters that a database role has on the view (API roles) or on the table (``flux_server``)."""
        if role == VIEWS_ROLE:
            return self._views()
        letters: str = "" if role == "flux_anon" else getattr(self, role.removeprefix("flux_"))
        return letters

    def _views(self) -> str:
        letters = self.authenticated + self.operator + self.edge + self.service
        return "".join(verb for verb in "riud" if verb in letters)

    @property
    def writable(self) -> bool:
        """Whether any role writes through the view."""
        return self._views() != "r"


def _rollups(*names: str) -> tuple[Table, ...]:
    return tuple(Table(name, Fence.DEVICE, edge="r", series=True) for name in names)


TABLES = (
    Table("sites", Fence.SITE, operator="ru", edge="r", service="riu", server="riu"),
    Table("mg_device_registry", Fence.SITE, operator="riu", edge="r", service="riu", server="riu"),
    Table("device_templates", Fence.SHARED, operator="riud", edge="r", service="riud", server="riud"),
    Table("template_metrics", Fence.SHARED, server="riud"),
    Table("device_groups", Fence.GROUP, operator="riud", edge="r", service="riud", server="riud"),
    Table("device_group_members", Fence.MEMBER, operator="riud", edge="r", service="riud", server="riud"),
    Table("device_group_actors", Fence.DEVICE, edge="r", view=True),
    Table("device_health", Fence.DEVICE, edge="ri", service="ri", server="ri", series=True),
    Table("device_events", Fence.DEVICE, edge="r"),
    Table("device_changes", Fence.DEVICE),
    Table("device_archives", Fence.DEVICE),
    Table("maintenance_windows", Fence.DEVICE, operator="riud", edge="r", service="riud", server="riud",
          stamped=("created_by",)),
    Table("alerts", Fence.SITE),
    Table("mg_bess_readings", Fence.DEVICE, edge="ri", service="riu", server="riu", series=True),
    Table("mg_meter_readings", Fence.DEVICE, edge="ri", service="riu", server="riu", series=True),
    *_rollups(
        "mg_bess_readings_5m", "mg_bess_readings_30m", "mg_bess_readings_1h", "mg_meter_readings_5m_intermediate",
        "mg_meter_readings_30m_intermediate", "mg_meter_readings_1h",
    ),
    Table("mg_meter_local_hours", Fence.DEVICE, view=True),
    Table("mg_meter_daily_totals", Fence.DEVICE, view=True),
    Table("mg_meter_monthly_totals", Fence.DEVICE, view=True),
    Table("mg_meter_daily_peaks", Fence.DEVICE, view=True),
    Table("mg_meter_settlement_periods", Fence.DEVICE, view=True),
    Table("counter_events", Fence.DEVICE),
    Table("counter_rulings", Fence.DEVICE, server="riud"),
    Table("counter_ruling_history", Fence.DEVICE, server="ri"),
    Table("rollup_gaps", Fence.DEVICE),
    Table("reading_marks", Fence.DEVICE, server="riud"),
    Table("rejected_readings", Fence.REJECTED, edge="r", server="riud"),
    Table("rejected_decisions", Fence.REJECTED, edge="r", server="riud"),
    Table("market_data_types", Fence.SHARED, edge="r", service="riu", server="riu"),
    Table("market_data", Fence.SITE_OR_ALL, edge="r", service="riud", server="riud"),
    Table("market_data_history", Fence.SITE_OR_ALL, server="ri"),
    Table("control_plans", Fence.PLAN, edge="r", server="ri"),
    Table("control_decisions", Fence.DEVICE, edge="ri", server="ri", series=True),
    Table("control_leases", Fence.SITE, edge="r", server="riu", noted=False),
    Table("dispatch_schedules", Fence.SITE, operator="riu", edge="r", service="riu", server="riu"),
    Table("site_envelopes", Fence.SITE, operator="riu", edge="r", service="riu", server="riu"),
    Table("site_plans", Fence.SITE, edge="r", server="riu"),
    Table("site_stops", Fence.SITE, operator="riu", edge="r", service="riu", server="riu",
          stamped=("actor", "resumed_by:resumed_at"), updatable=("resumed_at",)),
    Table("edge_jobs", Fence.SITE, server="riu"),
    Table("webhook_events", Fence.SITE, authenticated="", operator="", service="", server="riud", noted=False),
    Table("webhook_positions", Fence.SITE, authenticated="", operator="", service="", server="riu", noted=False),
    Table("worker_jobs", Fence.UNFENCED),
    Table("api_keys", Fence.KEYS, authenticated="", operator="", server=""),
    Table("api_audit", Fence.KEYS, authenticated="", operator="", server=""),
)  # fmt: skip
"""In the order of the documentation."""

FENCE_FUNCTIONS = ("sees_all()", "sees_any()", "seen_sites()", "seen_devices()", "seen_groups()", "seen_names()")
"""What policies ask; whoever has rights on a table calls them by its policies, so everybody may."""

VIEW_FUNCTIONS = ("settlement_date(timestamptz)", "settlement_period(timestamptz)")
"""What views of schema ``flux`` call: a function in a view is called by whoever reads the view."""

FUNCTIONS: dict[str, dict[str, str]] = {
    "get_meter_readings_5m": {"device_ids": "flux.seen_devices($3)"},
    "get_meter_readings_30m": {"device_ids": "flux.seen_devices($3)"},
    "get_meter_readings_1h": {"device_ids": "flux.seen_devices($3)"},
    "bess_with_market": {"device_ids": "flux.seen_devices($3)"},
    "device_uptime": {"device_ids": "flux.seen_devices($3)"},
    "market_as_of": {"site": "CASE WHEN flux.sees_site($5) THEN $5 END"},
    "settlement_date": {},
    "settlement_period": {},
}
"""What can be called by RPC: functions of schema ``flux``, with what is put in place of arguments to fence them."""

SERVER_ALSO = {
    "rollup_devices": "r", "rollup_changes": "ri", "time_series": "r", "storage": "r", "schema_version": "r",
    "schema_objects": "r", "template_metrics_source": "riud", "dropped_pieces": "r", "mg_meter_anchors": "r",
    "mg_bess_anchors": "r", "mg_meter_readings_judged": "r", "mg_meter_readings_kept": "r",
    "changes": "r", "change_log": "r", "rollup_meter_readings": "r", "rollup_bess_readings": "r",
}  # fmt: skip
"""Tables that clients do not see and Flux's own functions need."""
VIEWS_ALSO = ("rollup_devices",)
"""Tables that clients do not see and functions of schema ``flux_api`` read."""

DEFINER_FUNCTIONS = (
    "ensure_partitions", "ensure_partitions_for", "record_market", "sees_site", "actor", "in_api_session",
    "gateway_name", "seen_devices", "set_retention", "storage_status",
)  # fmt: skip
"""Functions that run as their owner and may be called by ``flux_server``: each of them asks the fence itself."""
