-- How long data is kept, and which engine keeps it. The functions are in sql/rollups/00_storage.sql and 20_lifecycle.sql.

-- Chosen here, once, and nowhere else: hypertables where the community edition of TimescaleDB is installed (its
-- Apache-only edition cannot compress, and counts as absent), native partitions everywhere else.
CREATE TABLE flux.storage (
    one       boolean PRIMARY KEY DEFAULT true CHECK (one),
    engine    text NOT NULL CHECK (engine IN ('partitions', 'hypertable')),
    chosen_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE flux.storage IS 'What keeps the time series of this database: native partitions, or hypertables of TimescaleDB. One row, written when the schema was made.';
INSERT INTO flux.storage (engine)
SELECT CASE WHEN current_setting('timescaledb.license', true) = 'timescale'
                AND EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')
                AND EXISTS (SELECT FROM pg_proc WHERE proname = 'add_columnstore_policy')
            THEN 'hypertable' ELSE 'partitions' END;

ALTER TABLE flux.time_series
    DROP CONSTRAINT time_series_engine_check,
    ADD CONSTRAINT time_series_engine_check CHECK (engine IN ('partitions', 'hypertable', 'rows')),
    ADD COLUMN made_from text REFERENCES flux.time_series,
    ADD COLUMN archive boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN flux.time_series.engine IS 'partitions: native; hypertable: of TimescaleDB; rows: a plain table, old rows are deleted.';
COMMENT ON COLUMN flux.time_series.keep IS 'How long a row is kept, `flux db retention set`; a piece goes when all of it is older. Null: for ever.';
COMMENT ON COLUMN flux.time_series.made_from IS 'What this is rolled up from: no piece goes before the same span of that has gone.';
COMMENT ON COLUMN flux.time_series.archive IS 'A piece goes only after it was written to Parquet.';
UPDATE flux.time_series SET keep = '90 days' WHERE table_name IN ('mg_meter_readings', 'mg_bess_readings');
INSERT INTO flux.time_series (table_name, time_column, step, engine, keep) VALUES
    ('rejected_readings', 'received_at', 'month', 'rows', '1 year'),
    ('rejected_decisions', 'received_at', 'month', 'rows', '1 year');

CREATE TABLE flux.dropped_pieces (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    table_name text NOT NULL,
    from_time  timestamptz NOT NULL,
    to_time    timestamptz NOT NULL,
    bytes      bigint NOT NULL,
    archived   text,
    dropped_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE flux.dropped_pieces IS 'What retention has dropped: from_time ≤ time < to_time of a table.';
COMMENT ON COLUMN flux.dropped_pieces.archived IS 'The Parquet file that it was written to before; null: none.';

ALTER TABLE flux.rejected_readings
    DROP CONSTRAINT rejected_readings_reason_check,
    ADD CONSTRAINT rejected_readings_reason_check CHECK (reason IN
        ('unknown_device', 'wrong_type', 'impossible_value', 'impossible_time', 'conflict', 'too_old'));
