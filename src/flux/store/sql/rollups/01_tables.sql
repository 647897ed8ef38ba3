-- What the rollups are kept in, and what the engine remembers. This script may run again at any time: it adds what is
-- missing. Lines that begin with @level, @counter or @code are repeated for each such metric of the model.

-- Where all of this is there already, ingest and refreshes may be at work: wait for them in the order in which they lock.
DO $do$
BEGIN
    IF to_regclass('flux.rollup_changes') IS NOT NULL THEN
        LOCK TABLE ONLY flux.mg_device_registry, ONLY flux.mg_meter_readings, ONLY flux.mg_bess_readings IN SHARE ROW EXCLUSIVE MODE;
        LOCK TABLE flux.rollup_devices, flux.rollup_changes IN ACCESS EXCLUSIVE MODE;
    END IF;
END $do$;

SELECT flux.keep_as_time_series('mg_meter_readings', 'time', 'week', '90 days');
SELECT flux.keep_as_time_series('mg_bess_readings', 'time', 'week', '90 days');
SELECT flux.keep_as_time_series('control_decisions', 'time', 'week', '90 days');
SELECT flux.keep_as_time_series('device_health', 'timestamp', 'month', '1 year');

-- The id of a reading is this database's own beginning and a number that counts up: a random one costs 16 bytes of each
-- reading where everything else is compressed, this one 3.
DO $do$
DECLARE
    own  CONSTANT text := gen_random_uuid()::text;
    name text;
BEGIN
    IF to_regclass('flux.reading_ids') IS NULL THEN
        CREATE SEQUENCE flux.reading_ids CACHE 100;
        GRANT USAGE ON SEQUENCE flux.reading_ids TO PUBLIC;  -- whoever may store readings needs it
        COMMENT ON SEQUENCE flux.reading_ids IS 'The last 60 bits of the ids of readings.';
        FOREACH name IN ARRAY ARRAY['mg_meter_readings', 'mg_bess_readings'] LOOP
            -- (a UUID of version 8: made in a way of one's own)
            EXECUTE format('ALTER TABLE flux.%I ALTER COLUMN id SET DEFAULT (%L || lpad(to_hex(nextval(''flux.reading_ids'')), 15, ''0''))::uuid',
                           name, substr(own, 1, 13) || '-8' || substr(own, 16, 3) || '-8');
        END LOOP;
    END IF;
END $do$;

DO $do$
BEGIN
    IF to_regtype('flux.rollup_range') IS NULL THEN
        CREATE TYPE flux.rollup_range AS (device_id uuid, lo timestamptz, hi timestamptz, forced boolean);
    END IF;
END $do$;
COMMENT ON TYPE flux.rollup_range IS 'A span of one device. forced: readings in it were changed or removed, so nothing that is listed for it may be believed.';

CREATE TABLE IF NOT EXISTS flux.rollup_devices (
    device_id uuid PRIMARY KEY REFERENCES flux.mg_device_registry ON DELETE CASCADE,
    counters  text[] NOT NULL DEFAULT '{}',
    cut       timestamptz
);
ALTER TABLE flux.rollup_devices
    ADD COLUMN IF NOT EXISTS failed_at timestamptz,
    ADD COLUMN IF NOT EXISTS failure text;
COMMENT ON TABLE flux.rollup_devices IS 'One row for each device. Whoever refreshes a device locks its row, so that several can refresh at once.';
COMMENT ON COLUMN flux.rollup_devices.counters IS 'Every counter that this device has ever reported.';
COMMENT ON COLUMN flux.rollup_devices.cut IS 'Raw readings before this were dropped: no bucket of an hour that starts before it is computed again.';
COMMENT ON COLUMN flux.rollup_devices.failure IS 'Why its rollups could not be computed at failed_at; its changes stay noted. Null: nothing is wrong.';

CREATE TABLE IF NOT EXISTS flux.rollup_changes (
    device_id uuid NOT NULL,
    source    text NOT NULL CHECK (source IN ('meter', 'bess')),
    from_time timestamptz NOT NULL,
    to_time   timestamptz NOT NULL CHECK (to_time >= from_time),
    removed   boolean NOT NULL DEFAULT false,
    noted_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS rollup_changes_device_idx ON flux.rollup_changes (device_id);
COMMENT ON TABLE flux.rollup_changes IS 'Spans of readings that changed and are not in the rollups yet (both ends included). Only ever appended to, and taken by a refresh.';
COMMENT ON COLUMN flux.rollup_changes.removed IS 'Readings were changed or deleted, not only added.';

CREATE TABLE IF NOT EXISTS flux.rollup_gaps (
    device_id uuid NOT NULL,
    counter   text NOT NULL,
    from_time timestamptz NOT NULL,
    to_time   timestamptz NOT NULL,
    step      double precision NOT NULL,
    PRIMARY KEY (device_id, counter, from_time)
);
COMMENT ON TABLE flux.rollup_gaps IS 'Two readings of a counter further apart than the device''s gap limit: no bucket has a share of what was counted between them, it is here. Rows and gaps together add up to what the counter counted.';
COMMENT ON COLUMN flux.rollup_gaps.step IS 'What the counter counted from from_time to to_time, in its own unit (kWh, kVArh, kVAh).';

CREATE TABLE IF NOT EXISTS flux.counter_events (
    device_id    uuid NOT NULL,
    counter      text NOT NULL,
    time         timestamptz NOT NULL,
    kind         text NOT NULL,
    value        double precision NOT NULL,
    good_time    timestamptz NOT NULL,
    good_value   double precision NOT NULL,
    step         double precision,
    until        timestamptz,
    ruling       text,
    needs_review boolean NOT NULL GENERATED ALWAYS AS (kind IN ('correction', 'jump') AND ruling IS NULL) STORED,
    PRIMARY KEY (device_id, counter, time)
);
DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'flux.counter_events'::regclass AND attname = 'ruling') THEN
        ALTER TABLE flux.counter_events DROP COLUMN needs_review;
        ALTER TABLE flux.counter_events ADD COLUMN ruling text;
        ALTER TABLE flux.counter_events ADD COLUMN needs_review boolean NOT NULL
            GENERATED ALWAYS AS (kind IN ('correction', 'jump') AND ruling IS NULL) STORED;
    END IF;
END $do$;
ALTER TABLE flux.counter_events
    DROP CONSTRAINT IF EXISTS counter_events_kind_check,
    ADD CONSTRAINT counter_events_kind_check CHECK (kind IN ('glitch', 'restart', 'rollover', 'correction', 'jump', 'undecided'));
CREATE INDEX IF NOT EXISTS counter_events_until_idx
    ON flux.counter_events (device_id, coalesce(until, 'infinity'), good_time);
COMMENT ON TABLE flux.counter_events IS 'Each time a counter fell, or rose by more than the device can carry, and what the rollups took it for.';
COMMENT ON COLUMN flux.counter_events.time IS 'The first reading below the last good one, or too far above it.';
COMMENT ON COLUMN flux.counter_events.ruling IS 'What a person said it was (counter_rulings); null: nobody did.';
COMMENT ON COLUMN flux.counter_events.kind IS
    'glitch: it came back, the low readings are ignored; restart: it went on from zero; rollover: it passed the end of its register; correction: none of these, nothing is counted, somebody should look; jump: it rose by more than the device can carry and stayed, nothing is counted, somebody should look; undecided: the next readings will tell.';
COMMENT ON COLUMN flux.counter_events.good_value IS 'The last good reading before, at good_time.';
COMMENT ON COLUMN flux.counter_events.step IS 'What was counted from good_time to time; null for a glitch and while undecided.';
COMMENT ON COLUMN flux.counter_events.until IS 'The reading that decided it; null while undecided.';
