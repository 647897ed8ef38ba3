-- Who may command a site: stops that operators ordered, and the lease that keeps a second edge from control.

CREATE TABLE flux.site_stops (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site            text NOT NULL REFERENCES flux.sites,
    reason          text NOT NULL DEFAULT '',
    actor           text NOT NULL,
    stopped_at      timestamptz NOT NULL DEFAULT now(),
    acknowledged_at timestamptz,
    resumed_at      timestamptz CHECK (resumed_at >= stopped_at),
    resumed_by      text CHECK ((resumed_by IS NULL) = (resumed_at IS NULL))
);
CREATE UNIQUE INDEX site_stops_in_force_key ON flux.site_stops (site) WHERE resumed_at IS NULL;
CREATE INDEX site_stops_site_idx ON flux.site_stops (site, resumed_at);
COMMENT ON TABLE flux.site_stops IS 'Each stop of a site (`flux control stop`): its batteries are brought to 0 kW and rest until it is resumed. At most one of a site is in force. A stop that was typed on the edge''s host while the platform was away is in a file there.';
COMMENT ON COLUMN flux.site_stops.actor IS 'Who stopped it.';
COMMENT ON COLUMN flux.site_stops.acknowledged_at IS 'When the edge told that every battery had acknowledged 0 kW; null: not yet.';
COMMENT ON COLUMN flux.site_stops.resumed_at IS 'Null: in force.';
CREATE TRIGGER announce AFTER INSERT OR DELETE OR TRUNCATE OR UPDATE OF resumed_at ON flux.site_stops
    FOR EACH STATEMENT EXECUTE FUNCTION flux.announce_registry();

CREATE TABLE flux.control_leases (
    site        text PRIMARY KEY REFERENCES flux.sites,
    holder      text NOT NULL,
    host        text NOT NULL DEFAULT '',
    token       bigint NOT NULL DEFAULT 1,
    acquired_at timestamptz NOT NULL DEFAULT now(),
    renewed_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL
);
COMMENT ON TABLE flux.control_leases IS 'Which edge may command the batteries of a site: one for each site. The holder renews it while it is connected, and goes on without when the platform is away.';
COMMENT ON COLUMN flux.control_leases.holder IS 'The edge''s own name, made once in its state folder: an edge that is started again is the same holder.';
COMMENT ON COLUMN flux.control_leases.host IS 'Where it runs, for people.';
COMMENT ON COLUMN flux.control_leases.token IS 'Goes up by one with each new holder.';
COMMENT ON COLUMN flux.control_leases.expires_at IS 'From then on another edge may have it; 1970: it was given back.';
