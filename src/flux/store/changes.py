"""What changed: which tables are followed, and the triggers that note the keys of changed rows in ``flux.changes``.

A statement that changes three readings of two meters becomes one row of the log::

    table_name         op      rows  devices    times                  parts  sites
    mg_meter_readings  INSERT  3     {M1,M1,M2} {12:00,12:01,12:00}    null   null

``flux.api.realtime`` reads it, fetches the rows by their keys as whoever asked, and sends them on. A statement of more
than :data:`MOST_KEYS` rows is noted as spans: the first and the last time of each device.
"""

from dataclasses import dataclass
from pathlib import Path

from flux.store.rollups import BESS_LEVELS, LEVELS

_SQL = Path(__file__).parent / "sql" / "changes.sql"
MOST_KEYS = 10_000
"""Rows of a statement that are noted one by one."""


@dataclass(frozen=True, slots=True)
class Followed:
    """A table whose changes are noted. ``device``, ``time``, ``part``: the columns that make up its key.

    ``owner``: the column that names the row's device where that is not in the key; ``site``: the one with its site;
    ``rewritten``: its rows are deleted and made again rather than updated.
    """

    table: str
    device: str | None = None
    time: str | None = None
    part: str | None = None
    owner: str | None = None
    site: str | None = None
    rewritten: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of the primary key."""
        return tuple(column for column in (self.device, self.time, self.part) if column is not None)


FOLLOWED = {
    followed.table: followed
    for followed in (
        Followed("sites", part="site", site="site"),
        Followed("mg_device_registry", device="id", site="site"),
        Followed("device_templates", part="name"),
        Followed("device_groups", part="id", site="site"),
        Followed("device_group_members", device="device_id", part="group_id"),
        Followed("device_health", device="device_id", time="timestamp"),
        Followed("device_events", part="id", owner="device_id"),
        Followed("device_changes", part="id", owner="device_id"),
        Followed("maintenance_windows", part="id", owner="device_id"),
        Followed("mg_meter_readings", device="device_id", time="time"),
        Followed("mg_bess_readings", device="device_id", time="time"),
        *(
            Followed(level.table, device="device_id", time="time_b", rewritten=True)
            for level in (*LEVELS, *BESS_LEVELS)
        ),
        Followed("rollup_gaps", device="device_id", time="from_time", part="counter"),
        Followed("counter_events", device="device_id", time="time", part="counter"),
        Followed("reading_marks", device="device_id", time="time", part="metric"),
        Followed("market_data", part="id", site="site"),
        Followed("control_decisions", device="device_id", time="time", part="plan"),
        Followed("dispatch_schedules", part="id", site="site"),
        Followed("site_envelopes", part="id", site="site"),
        Followed("site_plans", part="id", site="site"),
        Followed("site_stops", part="id", site="site"),
        Followed("alerts", part="id", site="site"),
    )
}
"""By table. What is not here changes without a word: leases, worker jobs, marks of the log itself."""


def render_sql() -> str:
    """The triggers of every table that is followed, as one script; running it again changes nothing."""
    return "\n".join([_SQL.read_text(encoding="utf-8"), *map(_of_table, FOLLOWED.values())])


def _of_table(f: Followed) -> str:
    return f"""
-- {f.table}

CREATE OR REPLACE FUNCTION flux.log_{f.table}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_hashjoin = on AS $$
DECLARE
    changed bigint;
BEGIN
    IF tg_op = 'DELETE' THEN
        SELECT count(*) INTO changed FROM log_old;
    ELSE
        SELECT count(*) INTO changed FROM log_new;
    END IF;
    IF changed = 0 THEN
        RETURN NULL;
    END IF;
    IF changed > {MOST_KEYS} THEN
        IF tg_op = 'DELETE' THEN
            {_spans(f, "log_old")}
        ELSE
            {_spans(f, "log_new")}
        END IF;
    ELSIF tg_op = 'INSERT' THEN
        {_rewritten(f) if f.rewritten else _plain(f, "INSERT", "log_new")}
    ELSIF tg_op = 'DELETE' THEN
        {_plain(f, "DELETE", "log_old")}
    ELSE
        {_updated(f)}
    END IF;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER log_added AFTER INSERT ON flux.{f.table}
    REFERENCING NEW TABLE AS log_new FOR EACH STATEMENT EXECUTE FUNCTION flux.log_{f.table}();
CREATE OR REPLACE TRIGGER log_changed AFTER UPDATE ON flux.{f.table}
    REFERENCING OLD TABLE AS log_old NEW TABLE AS log_new FOR EACH STATEMENT EXECUTE FUNCTION flux.log_{f.table}();
CREATE OR REPLACE TRIGGER log_emptied AFTER TRUNCATE ON flux.{f.table}
    FOR EACH STATEMENT EXECUTE FUNCTION flux.note_emptied();
{_removed(f)}"""


def _columns(f: Followed, alias: str) -> str:
    """``device AS device, …`` of one row of a transition table, under the names of the log."""
    device = f.device or f.owner
    return ", ".join(
        [
            f"{alias}.{device} AS device" if device else "NULL::uuid AS device",
            f"{alias}.{f.time} AS at" if f.time else "NULL::timestamptz AS at",
            f"{alias}.{f.part}::text AS part" if f.part else "NULL::text AS part",
        ]
    )


def _arrays(f: Followed) -> str:
    """The arguments of ``flux.note_change`` that hold the keys."""
    return ", ".join(
        [
            "array_agg(c.device)" if f.device or f.owner else "NULL",
            "array_agg(c.at)" if f.time else "NULL",
            "array_agg(c.part)" if f.part else "NULL",
            "array_agg(c.site)" if f.site else "NULL",
        ]
    )


def _plain(f: Followed, op: str, table: str) -> str:
    site = f", t.{f.site} AS site" if f.site else ""
    return (
        f"PERFORM flux.note_change('{f.table}', '{op}', changed, {_arrays(f)})\n"
        f"        FROM (SELECT {_columns(f, 't')}{site} FROM {table} t) c;"
    )


def _updated(f: Followed) -> str:
    """One whose key was changed has gone under the old one, and is new under the other."""
    first = f.key[0]
    both = ", ".join(f"coalesce(n.{name}, o.{name}) AS {name}" for name in ("device", "at", "part"))
    site = f", CASE WHEN o.key_{first} IS NULL THEN n.site ELSE o.site END AS site" if f.site else ""
    key = ", ".join(f"{column} AS key_{column}" for column in f.key)
    of_row = f"{key}, {_columns(f, 't')}" + (f", t.{f.site} AS site" if f.site else "")
    same = " AND ".join(f"o.key_{column} = n.key_{column}" for column in f.key)
    return f"""PERFORM flux.note_change('{f.table}', c.op, count(*), {_arrays(f)})
        FROM (
            SELECT {both}{site}, CASE WHEN o.key_{first} IS NULL THEN 'INSERT'
                                      WHEN n.key_{first} IS NULL THEN 'DELETE' ELSE 'UPDATE' END AS op
            FROM (SELECT {of_row} FROM log_new t) n FULL JOIN (SELECT {of_row} FROM log_old t) o ON {same}
        ) c GROUP BY c.op ORDER BY c.op;"""


def _rewritten(f: Followed) -> str:
    """What the same transaction has deleted before is an update."""
    return f"""PERFORM flux.note_change('{f.table}', c.op, count(*), {_arrays(f)})
        FROM (
            SELECT {_columns(f, "t")}, CASE WHEN gone.device IS NULL THEN 'INSERT' ELSE 'UPDATE' END AS op
            FROM log_new t LEFT JOIN (
                SELECT DISTINCT u.device, u.at
                FROM flux.changes l CROSS JOIN LATERAL unnest(l.devices, l.times) u(device, at)
                WHERE l.txid = pg_current_xact_id() AND l.table_name = '{f.table}' AND l.op = 'DELETE' AND NOT l.spans
            ) gone ON gone.device = t.{f.device} AND gone.at = t.{f.time}
        ) c GROUP BY c.op ORDER BY c.op;"""


def _spans(f: Followed, table: str) -> str:
    if not (f.device and f.time):
        return f"PERFORM flux.note_change('{f.table}', tg_op, changed, in_spans => true);"
    return (
        f"PERFORM flux.note_change('{f.table}', tg_op, changed,\n"
        f"                array_agg(c.device), array_agg(c.at), in_spans => true)\n"
        f"            FROM (SELECT d.device, u.at\n"
        f"                  FROM (SELECT t.{f.device} AS device, min(t.{f.time}) AS first, max(t.{f.time}) AS last\n"
        f"                        FROM {table} t GROUP BY t.{f.device}) d\n"
        f"                  CROSS JOIN LATERAL (VALUES (d.first), (d.last)) u(at)) c;"
    )


def _removed(f: Followed) -> str:
    """Hypertables refuse triggers that see the deleted rows: there a deletion of readings says that there was one."""
    readings = f.table in ("mg_meter_readings", "mg_bess_readings")
    instead = (
        f"""
    ELSE
        CREATE OR REPLACE TRIGGER log_removed AFTER DELETE ON flux.{f.table}
            FOR EACH STATEMENT EXECUTE FUNCTION flux.note_emptied();"""
        if readings
        else ""
    )
    return f"""DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM flux.time_series s WHERE s.table_name = '{f.table}' AND s.engine = 'hypertable') THEN
        CREATE OR REPLACE TRIGGER log_removed AFTER DELETE ON flux.{f.table}
            REFERENCING OLD TABLE AS log_old FOR EACH STATEMENT EXECUTE FUNCTION flux.log_{f.table}();{instead}
    END IF;
END $do$;"""
