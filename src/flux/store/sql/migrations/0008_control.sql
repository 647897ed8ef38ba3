-- What controllers are told from outside: dispatch schedules, operating envelopes, plans that were pushed.
-- Rows are never changed but to be withdrawn, so what was in force at any time can be asked.

CREATE FUNCTION flux.announce_control() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    PERFORM pg_notify('flux_control', tg_table_name);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION flux.announce_control() IS 'Tells listeners of channel flux_control which table changed; they read what changed.';

CREATE TABLE flux.dispatch_schedules (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site         text NOT NULL REFERENCES flux.sites,
    source       text NOT NULL CHECK (source <> ''),
    position     integer NOT NULL,
    starts_at    timestamptz NOT NULL CHECK (isfinite(starts_at)),
    ends_at      timestamptz NOT NULL CHECK (isfinite(ends_at)),
    action       text NOT NULL CHECK (action <> ''),
    received_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    withdrawn_at timestamptz,
    CHECK (starts_at < ends_at)
);
CREATE INDEX dispatch_schedules_in_force_idx ON flux.dispatch_schedules (site, ends_at) WHERE withdrawn_at IS NULL;
COMMENT ON TABLE flux.dispatch_schedules IS 'Steps of external dispatch (mode axle): what a site is asked to do in [starts_at, ends_at). Of several that hold at once the first counts: those typed by hand, then by source, then by position.';
COMMENT ON COLUMN flux.dispatch_schedules.source IS 'Who sent it: axle, or manual (`flux control schedule set`).';
COMMENT ON COLUMN flux.dispatch_schedules.position IS 'Its place in the schedule as sent.';
COMMENT ON COLUMN flux.dispatch_schedules.action IS 'charge_max, discharge_max, avoid_import or avoid_export; another one is kept as it came, and alerted by the controller.';
COMMENT ON COLUMN flux.dispatch_schedules.received_at IS 'When it was stored here for the first time.';
COMMENT ON COLUMN flux.dispatch_schedules.withdrawn_at IS 'When a newer schedule of the same source no longer had it, or it was cleared; null: it holds.';
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON flux.dispatch_schedules
    FOR EACH STATEMENT EXECUTE FUNCTION flux.announce_control();

CREATE TABLE flux.site_envelopes (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site            text NOT NULL REFERENCES flux.sites,
    source          text NOT NULL DEFAULT 'manual' CHECK (source <> ''),
    starts_at       timestamptz NOT NULL CHECK (isfinite(starts_at)),
    ends_at         timestamptz NOT NULL CHECK (isfinite(ends_at)),
    import_limit_kw double precision CHECK (import_limit_kw > '-Infinity' AND import_limit_kw < 'Infinity'),
    export_limit_kw double precision CHECK (export_limit_kw > '-Infinity' AND export_limit_kw < 'Infinity'),
    received_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    withdrawn_at    timestamptz,
    CHECK (starts_at < ends_at),
    CHECK (num_nonnulls(import_limit_kw, export_limit_kw) > 0)
);
CREATE INDEX site_envelopes_in_force_idx ON flux.site_envelopes (site, ends_at) WHERE withdrawn_at IS NULL;
COMMENT ON TABLE flux.site_envelopes IS 'Operating envelopes: limits of a grid connection that hold in [starts_at, ends_at) in place of the plan''s. Of several that hold at once the one received last counts.';
COMMENT ON COLUMN flux.site_envelopes.import_limit_kw IS 'kW; null: the plan''s.';
COMMENT ON COLUMN flux.site_envelopes.export_limit_kw IS 'kW; null: the plan''s.';
COMMENT ON COLUMN flux.site_envelopes.withdrawn_at IS 'When it was cleared or replaced; null: it holds.';
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON flux.site_envelopes
    FOR EACH STATEMENT EXECUTE FUNCTION flux.announce_control();

CREATE TABLE flux.site_plans (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site         text NOT NULL REFERENCES flux.sites,
    hash         text NOT NULL CHECK (hash <> ''),
    body         jsonb NOT NULL CHECK (jsonb_typeof(body) = 'object'),
    actor        text NOT NULL,
    pushed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    withdrawn_at timestamptz
);
CREATE UNIQUE INDEX site_plans_in_force_key ON flux.site_plans (site) WHERE withdrawn_at IS NULL;
COMMENT ON TABLE flux.site_plans IS 'Plans that were pushed to a site (`flux control push`); at most one of a site is in force, and goes before the controller section of its site.yaml.';
COMMENT ON COLUMN flux.site_plans.body IS 'The controller section with all defaults.';
COMMENT ON COLUMN flux.site_plans.withdrawn_at IS 'When it was withdrawn or replaced by another; null: in force.';
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON flux.site_plans
    FOR EACH STATEMENT EXECUTE FUNCTION flux.announce_control();

CREATE TRIGGER announce_limits AFTER UPDATE OF import_limit_kw, export_limit_kw ON flux.sites
    FOR EACH STATEMENT EXECUTE FUNCTION flux.announce_control();
CREATE TRIGGER announce_control AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON flux.market_data
    FOR EACH STATEMENT EXECUTE FUNCTION flux.announce_control();

-- The ledger says what became of a decision: what each battery was told of it, and which faults held.

ALTER TABLE flux.control_decisions
    ADD COLUMN sent_power_kw double precision CHECK (sent_power_kw > '-Infinity' AND sent_power_kw < 'Infinity'),
    ADD COLUMN commands      jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(commands) = 'array'),
    ADD COLUMN fault_details jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(fault_details) = 'array');

COMMENT ON COLUMN flux.control_decisions.sent_power_kw IS 'kW, + discharge: what was asked of all batteries together after damping. Null: nothing was, or a shadow plan.';
COMMENT ON COLUMN flux.control_decisions.commands IS 'One object for each battery of the plan: battery, asked_kw (its part, null: nothing was asked), written (in this cycle; else it was in force), acknowledged_kw and acknowledged_at (what holds after the cycle; null: nothing), register_writes_today (so far, by the UTC day).';
COMMENT ON COLUMN flux.control_decisions.fault_details IS 'The faults that held in that cycle: kind, device, since, words. The first decision without one is its end.';
