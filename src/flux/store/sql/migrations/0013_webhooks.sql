-- Signed calls of dispatch platforms: what was taken, so that it is not taken twice or in the wrong order.

CREATE TABLE flux.webhook_events (
    source      text NOT NULL,
    id          text NOT NULL,
    site        text NOT NULL REFERENCES flux.sites,
    signed_at   timestamptz NOT NULL,
    body_hash   bytea NOT NULL,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (source, id)
);
CREATE INDEX webhook_events_received_at_idx ON flux.webhook_events (received_at);
COMMENT ON TABLE flux.webhook_events IS 'Events of webhooks that were taken in the last day: one that comes again is known by its id.';
COMMENT ON COLUMN flux.webhook_events.signed_at IS 'The newest timestamp with which it was signed: the same one again is a replay, a later one its sender''s next try.';
COMMENT ON COLUMN flux.webhook_events.body_hash IS 'SHA-256 of the body: an id is not used for another.';

CREATE TABLE flux.webhook_positions (
    source    text NOT NULL,
    site      text NOT NULL REFERENCES flux.sites,
    issued_at timestamptz NOT NULL,
    PRIMARY KEY (source, site)
);
COMMENT ON TABLE flux.webhook_positions IS 'When the newest schedule was made that a source has sent for a site: an older one that comes later changes nothing.';
