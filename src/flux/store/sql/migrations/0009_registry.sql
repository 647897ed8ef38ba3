-- The registry made whole: groups with a site and a kind, maintenance that is planned ahead. What a device may become,
-- and what its metadata may hold, is in sql/registry.

-- Numbers that were written as text count as numbers from now on: a rollup or a poller never read them.
UPDATE flux.mg_device_registry r
SET metadata = r.metadata || (
    SELECT jsonb_object_agg(m.key, (m.value #>> '{}')::numeric)
    FROM jsonb_each(r.metadata) m
    WHERE m.key IN ('port', 'modbus_address', 'capacity_kwh', 'max_power_kw', 'efficiency', 'phases', 'ct_ratio', 'vt_ratio')
      AND jsonb_typeof(m.value) = 'string' AND m.value #>> '{}' ~ '^[0-9]{1,12}(\.[0-9]{1,12})?$')
WHERE EXISTS (
    SELECT FROM jsonb_each(r.metadata) m
    WHERE m.key IN ('port', 'modbus_address', 'capacity_kwh', 'max_power_kw', 'efficiency', 'phases', 'ct_ratio', 'vt_ratio')
      AND jsonb_typeof(m.value) = 'string' AND m.value #>> '{}' ~ '^[0-9]{1,12}(\.[0-9]{1,12})?$');

-- Keys that rollups go by are checked from now on. What stood there and could not be read counted as not given; it is kept
-- under another name, so that no device is left out for it.
UPDATE flux.mg_device_registry r
SET metadata = (SELECT jsonb_object_agg(CASE WHEN u.key IS NULL THEN m.key ELSE m.key || '_not_understood' END, m.value)
                FROM jsonb_each(r.metadata) m LEFT JOIN unnest(b.keys) u(key) ON u.key = m.key)
FROM flux.mg_device_registry o
CROSS JOIN LATERAL (
    SELECT array_agg(m.key) AS keys
    FROM jsonb_each(o.metadata) m
    WHERE CASE
        WHEN jsonb_typeof(m.value) = 'null' THEN false
        WHEN m.key IN ('gap_limit', 'hold_limit', 'power_stuck_after') THEN
            jsonb_typeof(m.value) <> 'string'
            OR m.value #>> '{}' !~ '^( *[0-9]{1,8}(\.[0-9]{1,9})? *([mM][sS]|[sSmMhHdD])){1,9} *$'
        WHEN m.key = 'counter_width' THEN
            jsonb_typeof(m.value) <> 'number' OR NOT (m.value > '0' AND m.value <= '1000000000000000')
        WHEN m.key = 'counter_widths' THEN
            jsonb_typeof(m.value) <> 'object'
            OR jsonb_path_exists(m.value, '$.* ? (!(@.type() == "number" && @ > 0 && @ <= 1000000000000000))')
        WHEN m.key = 'storage_of' THEN o.metadata ->> 'meter_type' IS DISTINCT FROM 'storage'
        ELSE false END) b
WHERE o.id = r.id AND b.keys IS NOT NULL;

-- Devices that were put into maintenance before their state followed from it.
WITH put AS (
    UPDATE flux.mg_device_registry r SET state = 'maintenance'
    FROM flux.mg_device_registry o
    WHERE o.id = r.id AND NOT r.active AND r.metadata ? 'maintenance' AND r.state NOT IN ('maintenance', 'decommissioned')
    RETURNING r.id, o.state AS from_state, r.metadata
)
INSERT INTO flux.device_events (device_id, from_state, to_state, trigger, reason)
SELECT put.id, put.from_state, 'maintenance', 'maintenance', put.metadata #>> '{maintenance,reason}' FROM put;
UPDATE flux.mg_device_registry SET active = false WHERE active AND state IN ('maintenance', 'decommissioned');

ALTER TABLE flux.device_groups
    ADD COLUMN site text NOT NULL DEFAULT 'ALL' CHECK (site ~ '^[A-Za-z0-9][A-Za-z0-9_-]{0,49}$'),
    ADD COLUMN type text NOT NULL DEFAULT 'monitoring' CHECK (type IN ('control', 'monitoring', 'analysis'));
COMMENT ON COLUMN flux.device_groups.site IS 'The site of its members; ALL: the group may span sites.';
COMMENT ON COLUMN flux.device_groups.type IS 'control: one of its members acts, see device_group_actors; monitoring; analysis.';
COMMENT ON COLUMN flux.device_group_members.priority IS 'Among members of one role: 1 before 2.';

CREATE TABLE flux.maintenance_windows (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    device_id    uuid NOT NULL REFERENCES flux.mg_device_registry,
    starts_at    timestamptz,
    every        text CHECK (every <> ''),
    timezone     text NOT NULL DEFAULT 'Europe/London',
    duration     interval NOT NULL CHECK (duration > interval '0'),
    reason       text NOT NULL DEFAULT 'planned maintenance' CHECK (reason <> ''),
    ends_itself  boolean NOT NULL DEFAULT false,
    started_last timestamptz,
    created_by   text NOT NULL DEFAULT session_user,
    created_at   timestamptz NOT NULL DEFAULT now(),
    cancelled_at timestamptz,
    CHECK ((starts_at IS NULL) <> (every IS NULL))
);
CREATE INDEX maintenance_windows_device_idx ON flux.maintenance_windows (device_id);
COMMENT ON TABLE flux.maintenance_windows IS 'Maintenance planned ahead: once (starts_at) or again and again (every, e.g. "sunday 02:00"). The worker starts it.';
COMMENT ON COLUMN flux.maintenance_windows.timezone IS 'Zone of the time of day in every.';
COMMENT ON COLUMN flux.maintenance_windows.ends_itself IS 'Take the device back to testing when the time is over. Otherwise somebody ends it, since somebody may be working at it, and it is alerted when overdue.';
COMMENT ON COLUMN flux.maintenance_windows.started_last IS 'The start of the window that was begun last.';
CREATE TRIGGER check_timezone BEFORE INSERT OR UPDATE OF timezone ON flux.maintenance_windows
    FOR EACH ROW EXECUTE FUNCTION flux.check_timezone();

CREATE TABLE flux.device_archives (
    device_id   uuid NOT NULL REFERENCES flux.mg_device_registry,
    archived_at timestamptz NOT NULL DEFAULT now(),
    file        text NOT NULL,
    rows        bigint NOT NULL CHECK (rows >= 0),
    from_time   timestamptz,
    to_time     timestamptz,
    sha256      text NOT NULL,
    PRIMARY KEY (device_id, archived_at)
);
COMMENT ON TABLE flux.device_archives IS 'The Parquet files that hold the readings of devices that were decommissioned.';

CREATE TABLE flux.worker_jobs (
    name         text PRIMARY KEY,
    every_s      double precision NOT NULL,
    succeeded_at timestamptz,
    failed_at    timestamptz,
    failure      text
);
COMMENT ON TABLE flux.worker_jobs IS 'What `flux worker` does in the background, and how it went last.';
COMMENT ON COLUMN flux.worker_jobs.failure IS 'What went wrong in its last turn; null: nothing.';

CREATE TABLE flux.device_changes (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id uuid NOT NULL REFERENCES flux.mg_device_registry,
    time      timestamptz NOT NULL,
    actor     text NOT NULL,
    changes   jsonb NOT NULL
);
CREATE INDEX device_changes_device_idx ON flux.device_changes (device_id, id);
COMMENT ON TABLE flux.device_changes IS 'Each change of what is said of a device: who changed what, and when; append-only.';
COMMENT ON COLUMN flux.device_changes.changes IS '{key: [before, after]} of name, site, active and each key of the metadata; {"template": [hash, hash]} where the registers of its template changed.';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON flux.device_changes
    FOR EACH STATEMENT EXECUTE FUNCTION flux.refuse_change();

CREATE TABLE flux.alerts (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key          text NOT NULL,
    severity     text NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
    site         text,
    text         text NOT NULL,
    raised_at    timestamptz NOT NULL,
    cleared_at   timestamptz,
    times        integer NOT NULL DEFAULT 1 CHECK (times > 0),
    told_at      timestamptz,
    end_told_at  timestamptz
);
CREATE UNIQUE INDEX alerts_open_key ON flux.alerts (key) WHERE cleared_at IS NULL;
CREATE INDEX alerts_key_idx ON flux.alerts (key, id);
COMMENT ON TABLE flux.alerts IS 'What somebody should know: raised while it holds, cleared when it is over. One that comes back soon is the same alert again.';
COMMENT ON COLUMN flux.alerts.key IS 'What it is about, e.g. failed:<device id>.';
COMMENT ON COLUMN flux.alerts.times IS 'How often it was raised: one that comes back within 15 minutes is counted here and not told again.';
COMMENT ON COLUMN flux.alerts.told_at IS 'When the notification went out; null: not yet, or no route takes it.';

COMMENT ON COLUMN flux.device_health.error_count IS 'Failed polls since the last one that succeeded.';
