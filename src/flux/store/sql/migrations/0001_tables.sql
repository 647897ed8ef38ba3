-- The tables of Flux. Names and columns are contracts: people query and write them with SQL.
-- Runs in one transaction; schema flux exists already (it holds the version table).

COMMENT ON SCHEMA flux IS 'Flux: battery storage fleets. Everything that Flux keeps is in here.';

-- ── Sites ──────────────────────────────────────────────────────────────────────────────────────────────────────────

CREATE TABLE flux.sites (
    site            text PRIMARY KEY CHECK (site ~ '^[A-Za-z0-9][A-Za-z0-9_-]{0,49}$'),
    name            text,
    timezone        text NOT NULL DEFAULT 'Europe/London',
    import_limit_kw double precision CHECK (import_limit_kw >= 0 AND import_limit_kw < 'Infinity'),
    export_limit_kw double precision CHECK (export_limit_kw >= 0 AND export_limit_kw < 'Infinity'),
    created_at      timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE flux.sites IS 'One row for each site; appears by itself when a device names a new one.';
COMMENT ON COLUMN flux.sites.site IS 'Short code, e.g. WLCE.';
COMMENT ON COLUMN flux.sites.timezone IS 'IANA name; the local day of totals and schedules.';
COMMENT ON COLUMN flux.sites.import_limit_kw IS 'Most that the grid connection may import; null: no limit known.';
COMMENT ON COLUMN flux.sites.export_limit_kw IS 'Most that the grid connection may export; null: no limit known.';

CREATE FUNCTION flux.check_timezone() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    PERFORM now() AT TIME ZONE new.timezone;  -- raises for a name that PostgreSQL does not know
    RETURN new;
END $$;
CREATE TRIGGER check_timezone BEFORE INSERT OR UPDATE OF timezone ON flux.sites
    FOR EACH ROW EXECUTE FUNCTION flux.check_timezone();

-- ── Registry ───────────────────────────────────────────────────────────────────────────────────────────────────────

CREATE TABLE flux.mg_device_registry (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name       text NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}$'),
    type       text NOT NULL CHECK (type IN ('bess', 'meter')),
    site       text NOT NULL REFERENCES flux.sites,
    metadata   jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    active     boolean NOT NULL DEFAULT true,
    state      text NOT NULL DEFAULT 'registered' CHECK (state IN
                   ('registered', 'configured', 'testing', 'active', 'failed', 'maintenance', 'decommissioned')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX mg_device_registry_name_key ON flux.mg_device_registry (name) WHERE state <> 'decommissioned';
CREATE INDEX mg_device_registry_site_idx ON flux.mg_device_registry (site);
COMMENT ON TABLE flux.mg_device_registry IS 'Every device: what it is, where, how to talk to it, what state it is in. Rows are never deleted, readings refer to them.';
COMMENT ON COLUMN flux.mg_device_registry.name IS 'Unique among the devices that are not decommissioned.';
COMMENT ON COLUMN flux.mg_device_registry.metadata IS
    'bess: manufacturer, model, capacity_kwh, max_power_kw, efficiency, modbus_address, firmware_version, template; meter: manufacturer, model, meter_type, phases, ct_ratio, vt_ratio, modbus_address, register_map, invert; both: host, port. Unknown keys are kept.';
COMMENT ON COLUMN flux.mg_device_registry.active IS 'A permission: polled when true and state is testing or active.';
COMMENT ON COLUMN flux.mg_device_registry.updated_at IS 'Set by trigger at every change.';

CREATE FUNCTION flux.add_site() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    INSERT INTO flux.sites (site) VALUES (new.site) ON CONFLICT DO NOTHING;
    RETURN new;
END $$;
CREATE TRIGGER add_site BEFORE INSERT OR UPDATE OF site ON flux.mg_device_registry
    FOR EACH ROW EXECUTE FUNCTION flux.add_site();

CREATE FUNCTION flux.touch() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    new.updated_at := clock_timestamp();
    RETURN new;
END $$;
CREATE TRIGGER touch BEFORE UPDATE ON flux.mg_device_registry FOR EACH ROW EXECUTE FUNCTION flux.touch();

CREATE FUNCTION flux.announce_registry() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    PERFORM pg_notify('flux_registry', tg_table_name);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION flux.announce_registry() IS 'Tells listeners of channel flux_registry which table changed; they read what changed.';
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON flux.mg_device_registry
    FOR EACH STATEMENT EXECUTE FUNCTION flux.announce_registry();

CREATE TABLE flux.device_templates (
    name       text PRIMARY KEY,
    hash       text NOT NULL,
    body       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE flux.device_templates IS 'Register maps, as YAML; devices name theirs in their metadata.';
COMMENT ON COLUMN flux.device_templates.hash IS 'SHA-256 of body, hexadecimal: two edges can tell that they mean the same.';
CREATE TRIGGER touch BEFORE UPDATE ON flux.device_templates FOR EACH ROW EXECUTE FUNCTION flux.touch();
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON flux.device_templates
    FOR EACH STATEMENT EXECUTE FUNCTION flux.announce_registry();

CREATE TABLE flux.device_groups (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name       text NOT NULL UNIQUE CHECK (name <> ''),
    metadata   jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE flux.device_groups IS 'Devices that are operated together.';
CREATE TRIGGER touch BEFORE UPDATE ON flux.device_groups FOR EACH ROW EXECUTE FUNCTION flux.touch();
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON flux.device_groups
    FOR EACH STATEMENT EXECUTE FUNCTION flux.announce_registry();

CREATE TABLE flux.device_group_members (
    group_id  uuid NOT NULL REFERENCES flux.device_groups ON DELETE CASCADE,
    device_id uuid NOT NULL REFERENCES flux.mg_device_registry,
    role      text NOT NULL DEFAULT 'primary' CHECK (role IN ('primary', 'backup', 'monitor')),
    priority  integer NOT NULL DEFAULT 0,
    PRIMARY KEY (group_id, device_id)
);
CREATE INDEX device_group_members_device_idx ON flux.device_group_members (device_id);
COMMENT ON TABLE flux.device_group_members IS 'Which device is in which group, and as what.';
COMMENT ON COLUMN flux.device_group_members.priority IS 'Lower comes first.';
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON flux.device_group_members
    FOR EACH STATEMENT EXECUTE FUNCTION flux.announce_registry();

CREATE TABLE flux.device_health (
    device_id            uuid NOT NULL REFERENCES flux.mg_device_registry,
    timestamp            timestamptz NOT NULL,
    status               text NOT NULL CHECK (status IN ('online', 'offline', 'degraded')),
    response_time_ms     double precision CHECK (response_time_ms >= 0),
    error_count          integer NOT NULL DEFAULT 0 CHECK (error_count >= 0),
    last_successful_poll timestamptz,
    diagnostics          jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (device_id, timestamp)
);
COMMENT ON TABLE flux.device_health IS 'How each device was doing, over time.';
COMMENT ON COLUMN flux.device_health.error_count IS 'Failed polls since the row before.';

CREATE FUNCTION flux.refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    RAISE EXCEPTION 'flux.% is append-only', tg_table_name USING ERRCODE = 'restrict_violation';
END $$;

CREATE TABLE flux.device_events (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id  uuid NOT NULL REFERENCES flux.mg_device_registry,
    time       timestamptz NOT NULL DEFAULT now(),
    from_state text,
    to_state   text NOT NULL,
    trigger    text NOT NULL,
    actor      text NOT NULL DEFAULT current_user,
    reason     text
);
CREATE INDEX device_events_device_time_idx ON flux.device_events (device_id, time);
COMMENT ON TABLE flux.device_events IS 'Each transition in the life of a device; append-only.';
COMMENT ON COLUMN flux.device_events.trigger IS 'What made it happen, e.g. register, test_passed, operator.';
COMMENT ON COLUMN flux.device_events.actor IS 'Who did it: a person, a key or a part of Flux.';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON flux.device_events
    FOR EACH STATEMENT EXECUTE FUNCTION flux.refuse_change();

-- ── Market data ────────────────────────────────────────────────────────────────────────────────────────────────────

CREATE TABLE flux.market_data_types (
    id          integer PRIMARY KEY,
    name        text NOT NULL UNIQUE,
    description text NOT NULL,
    unit        text NOT NULL
);
COMMENT ON TABLE flux.market_data_types IS 'What the values in market_data mean.';
INSERT INTO flux.market_data_types (id, name, description, unit) VALUES
    (1, 'niv_estimate', 'Net imbalance volume, estimate; positive = system short, negative = long', 'MW'),
    (2, 'wholesale_price', 'Wholesale price', '£/MWh'),
    (3, 'imbalance_price', 'Imbalance price', '£/MWh'),
    (4, 'axle_dispatch', 'Axle dispatch', 'kW'),
    (5, 'imbalance_volume', 'Imbalance volume of a settlement period; positive = system short', 'MWh');

CREATE TABLE flux.market_data (
    id       bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    time     timestamptz NOT NULL,
    type     integer NOT NULL REFERENCES flux.market_data_types,
    value    double precision NOT NULL CHECK (value > '-Infinity' AND value < 'Infinity'),
    metadata jsonb NOT NULL DEFAULT '{}',
    site     text REFERENCES flux.sites,
    CONSTRAINT market_data_type_site_time_key UNIQUE NULLS NOT DISTINCT (type, site, time)
);
COMMENT ON TABLE flux.market_data IS 'The newest value only, for each type, site and time; see market_data_history.';
COMMENT ON COLUMN flux.market_data.time IS 'What the value is about; of a settlement period, its start.';
COMMENT ON COLUMN flux.market_data.site IS 'Null: all sites.';

CREATE TABLE flux.market_data_history (
    id       bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    time     timestamptz NOT NULL,
    type     integer NOT NULL REFERENCES flux.market_data_types,
    value    double precision NOT NULL CHECK (value > '-Infinity' AND value < 'Infinity'),
    metadata jsonb NOT NULL DEFAULT '{}',
    site     text REFERENCES flux.sites,
    known_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT market_data_history_key UNIQUE NULLS NOT DISTINCT (type, site, time, known_at)
);
COMMENT ON TABLE flux.market_data_history IS 'Every value that was ever known, and since when: a backtest sees only what was known then. Append-only.';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON flux.market_data_history
    FOR EACH STATEMENT EXECUTE FUNCTION flux.refuse_change();

-- ── Rejected readings ──────────────────────────────────────────────────────────────────────────────────────────────

CREATE TABLE flux.rejected_readings (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT now(),
    kind        text NOT NULL CHECK (kind IN ('bess', 'meter')),
    device_id   uuid,
    time        timestamptz,
    reason      text NOT NULL CHECK (reason IN ('unknown_device', 'wrong_type', 'impossible_value', 'impossible_time', 'conflict')),
    detail      text NOT NULL,
    payload     jsonb NOT NULL,
    status      text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'accepted', 'retried')),
    fingerprint uuid GENERATED ALWAYS AS (md5(payload::text)::uuid) STORED,
    CONSTRAINT rejected_readings_once UNIQUE NULLS NOT DISTINCT (device_id, time, kind, reason, fingerprint)
);
CREATE INDEX rejected_readings_pending_idx ON flux.rejected_readings (id) WHERE status = 'pending';
COMMENT ON TABLE flux.rejected_readings IS 'Readings that the database must refuse, whole, with the reason: `flux readings rejected`. One that is sent again is kept once.';
COMMENT ON COLUMN flux.rejected_readings.device_id IS 'As sent: may name no device of the registry.';
COMMENT ON COLUMN flux.rejected_readings.payload IS 'The reading as sent; NaN and Infinity as text.';
COMMENT ON COLUMN flux.rejected_readings.status IS 'pending; accepted: stored in place of what was there; retried: stored by a later try.';

-- ── The schema itself ──────────────────────────────────────────────────────────────────────────────────────────────

CREATE TABLE flux.schema_objects (
    name       text PRIMARY KEY,
    hash       text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE flux.schema_objects IS 'SQL that is applied anew whenever it changes (functions, triggers of rollups), with the SHA-256 of what was applied last.';
