-- Jobs for the edge of a site: scan, test, set-point, stop.

CREATE TABLE flux.edge_jobs (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    site        text NOT NULL REFERENCES flux.sites,
    kind        text NOT NULL CHECK (kind IN ('scan', 'test', 'set_point', 'stop')),
    args        jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(args) = 'object'),
    created_by  text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at  timestamptz NOT NULL CHECK (isfinite(expires_at)),
    taken_at    timestamptz,
    taken_by    text,
    taken_run   text,
    takes       integer NOT NULL DEFAULT 0 CHECK (takes >= 0),
    finished_at timestamptz,
    outcome     text CHECK (outcome IN ('done', 'failed', 'cancelled')),
    result      jsonb,
    error       text,
    order_key   text,
    order_hash  text,
    CHECK ((taken_at IS NULL) = (taken_by IS NULL) AND (taken_at IS NULL) = (taken_run IS NULL)),
    CHECK ((finished_at IS NULL) = (outcome IS NULL)),
    CHECK ((error IS NOT NULL) = (outcome IS NOT NULL AND outcome <> 'done')),
    CHECK ((order_key IS NULL) = (order_hash IS NULL))
);
CREATE UNIQUE INDEX edge_jobs_order_key_idx ON flux.edge_jobs (site, created_by, order_key) WHERE order_key IS NOT NULL;
CREATE INDEX edge_jobs_open_idx ON flux.edge_jobs (site, created_at) WHERE finished_at IS NULL;
CREATE INDEX edge_jobs_site_idx ON flux.edge_jobs (site, created_at);
COMMENT ON TABLE flux.edge_jobs IS 'What the edge of a site was asked to do once: it takes a job, runs it and says what became of it. A job that nobody took before expires_at is never run.';
COMMENT ON COLUMN flux.edge_jobs.kind IS 'scan: look for devices; test: read one device; set_point: a power by hand for a limited time; stop: bring the site to 0 kW and rest.';
COMMENT ON COLUMN flux.edge_jobs.args IS 'By kind: scan {ranges, ports, unit_ids}, test {device}, set_point {device, power_kw (null: end it), until}, stop {reason}.';
COMMENT ON COLUMN flux.edge_jobs.expires_at IS 'From then on it is not begun any more. What was begun goes on.';
COMMENT ON COLUMN flux.edge_jobs.taken_by IS 'The edge''s own name, as in control_leases.';
COMMENT ON COLUMN flux.edge_jobs.taken_run IS 'Of that edge, the run of its program: one that was started again does not have what the run before it had.';
COMMENT ON COLUMN flux.edge_jobs.takes IS 'How many runs have taken it. A set-point is taken by one only.';
COMMENT ON COLUMN flux.edge_jobs.outcome IS 'Null: not finished.';
COMMENT ON COLUMN flux.edge_jobs.order_key IS 'What who ordered it calls the order: said again, it is the same job.';
COMMENT ON COLUMN flux.edge_jobs.order_hash IS 'Of what was ordered under that key.';

CREATE FUNCTION flux.announce_job() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    PERFORM pg_notify('flux_jobs', new.site);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION flux.announce_job() IS 'Tells listeners of channel flux_jobs for which site there is a new job.';
CREATE TRIGGER announce AFTER INSERT ON flux.edge_jobs FOR EACH ROW EXECUTE FUNCTION flux.announce_job();
