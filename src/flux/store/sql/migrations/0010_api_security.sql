-- Keys of the HTTP API, what they may see, and who wrote what through it.
-- The rules themselves are in sql/fence.sql and sql/api, which are applied anew when they change.

CREATE TABLE flux.api_keys (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name       text NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9 ._@-]{0,99}$'),
    role       text NOT NULL CHECK (role IN ('anon', 'authenticated', 'operator', 'edge', 'service')),
    sites      text[] CHECK (cardinality(sites) > 0 AND array_position(sites, NULL) IS NULL
                   AND array_to_string(sites, ',') ~ '^[A-Za-z0-9][A-Za-z0-9_-]{0,49}(,[A-Za-z0-9][A-Za-z0-9_-]{0,49})*$'),
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    expires_at timestamptz CHECK (expires_at > created_at),
    revoked_at timestamptz,
    revoked_by text,
    replaces   uuid REFERENCES flux.api_keys,
    last_used  timestamptz,
    CHECK ((revoked_at IS NULL) = (revoked_by IS NULL)),
    CONSTRAINT an_edge_has_one_site CHECK (role <> 'edge' OR (sites IS NOT NULL AND cardinality(sites) = 1))
);
CREATE UNIQUE INDEX api_keys_name_key ON flux.api_keys (name) WHERE revoked_at IS NULL;
COMMENT ON TABLE flux.api_keys IS 'The keys of the HTTP API (`flux keys`), never the tokens themselves: a token is a signed statement of one row.';
COMMENT ON COLUMN flux.api_keys.id IS 'The token''s claim jti.';
COMMENT ON COLUMN flux.api_keys.name IS 'Unique among the keys that are not revoked; the actor of what is done with it.';
COMMENT ON COLUMN flux.api_keys.sites IS 'The only sites that it sees and writes; null: every site. An edge has exactly one.';
COMMENT ON COLUMN flux.api_keys.revoked_at IS 'From then on it is refused; null: it holds.';
COMMENT ON COLUMN flux.api_keys.replaces IS 'The key that it took the place of (`flux keys rotate`).';
COMMENT ON COLUMN flux.api_keys.last_used IS 'To about ten minutes; null: never.';

CREATE TABLE flux.api_audit (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time       timestamptz NOT NULL DEFAULT clock_timestamp(),
    key_id     uuid,
    name       text,
    role       text,
    sites      text[],
    object     text NOT NULL,
    verb       text NOT NULL CHECK (verb IN ('INSERT', 'UPDATE', 'DELETE', 'EXECUTE')),
    rows       bigint CHECK (rows >= 0),
    request_id text
);
CREATE INDEX api_audit_time_idx ON flux.api_audit (time);
COMMENT ON TABLE flux.api_audit IS 'Who wrote what through the HTTP API, one row for each statement; append-only. In the transaction of what was written: one is not there without the other.';
COMMENT ON COLUMN flux.api_audit.key_id IS 'The key in api_keys; null: a token that Flux did not issue.';
COMMENT ON COLUMN flux.api_audit.name IS 'Its name, as the token says.';
COMMENT ON COLUMN flux.api_audit.sites IS 'The sites that the token was limited to; null: every site.';
COMMENT ON COLUMN flux.api_audit.rows IS 'How many rows; null: not known.';
COMMENT ON COLUMN flux.api_audit.request_id IS 'Of the HTTP request, as in the server''s log.';
CREATE TRIGGER append_only BEFORE UPDATE OR TRUNCATE ON flux.api_audit
    FOR EACH STATEMENT EXECUTE FUNCTION flux.refuse_change();

INSERT INTO flux.time_series (table_name, time_column, step, engine, keep) VALUES ('api_audit', 'time', 'month', 'rows', '1 year');
