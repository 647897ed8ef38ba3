-- What is left of the raw readings of a %kind% when retention drops them: the last ones of each device before its cut,
-- enough to judge the readings after it as with all of history at hand. (Rendered once for each kind of reading.)

CREATE TABLE IF NOT EXISTS flux.mg_%kind%_anchors (
    time       timestamptz NOT NULL,
    device_id  uuid NOT NULL REFERENCES flux.mg_device_registry,
    id         uuid NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (device_id, time)
);
ALTER TABLE flux.mg_%kind%_anchors
@level    ADD COLUMN IF NOT EXISTS %m% real,
@counter    ADD COLUMN IF NOT EXISTS %m% double precision,
@code    ADD COLUMN IF NOT EXISTS %m% smallint,
    ALTER COLUMN time SET NOT NULL;
COMMENT ON TABLE flux.mg_%kind%_anchors IS
    'The last readings of each %kind% before rollup_devices.cut, kept when retention dropped the others: rollups go on from them.';

-- (new columns only ever come at the end of a list that CREATE OR REPLACE VIEW compares by place: made anew instead)
DROP VIEW IF EXISTS flux.mg_%kind%_readings_judged, flux.mg_%kind%_readings_kept, flux.rollup_%kind%_readings;
CREATE VIEW flux.rollup_%kind%_readings AS
SELECT
@level    %m%,
@counter    %m%,
@code    %m%,
    time, device_id
FROM flux.mg_%kind%_readings
UNION ALL
SELECT
@level    %m%,
@counter    %m%,
@code    %m%,
    time, device_id
FROM flux.mg_%kind%_anchors;
COMMENT ON VIEW flux.rollup_%kind%_readings IS 'What rollups are computed from: the readings, and the anchors of those that retention dropped.';

CREATE OR REPLACE FUNCTION flux.keep_%kind%_anchors(devices uuid[], until timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    kept flux.rollup_range[];
BEGIN
    SELECT array_agg(DISTINCT (d.device_id, l.time, l.time, false)::flux.rollup_range) INTO kept
    FROM unnest(devices) u(id)
    JOIN flux.rollup_devices d ON d.device_id = u.id
    CROSS JOIN LATERAL (
        -- as many as the widest look back takes: 10 minutes, and 12 readings of each counter, some of which may be marked
        SELECT r.time FROM flux.rollup_%kind%_readings r
        WHERE r.device_id = d.device_id AND r.time < until AND r.time >= until - interval '10 minutes'
        UNION ALL
        (SELECT r.time FROM flux.rollup_%kind%_readings r
         WHERE r.device_id = d.device_id AND r.time < until ORDER BY r.time DESC LIMIT 12)
@counter        UNION ALL
@counter        (SELECT r.time FROM flux.rollup_%kind%_readings r
@counter         WHERE r.device_id = d.device_id AND '%m%' = ANY (d.counters) AND r.time < until AND r.%m% IS NOT NULL ORDER BY r.time DESC LIMIT 12)
    ) l;
    DELETE FROM flux.mg_%kind%_anchors a WHERE a.device_id = ANY (devices)
        AND NOT EXISTS (SELECT FROM unnest(kept) k WHERE k.device_id = a.device_id AND k.lo = a.time);
    INSERT INTO flux.mg_%kind%_anchors (
@level        %m%,
@counter        %m%,
@code        %m%,
        time, device_id, id, created_at)
    SELECT
@level        r.%m%,
@counter        r.%m%,
@code        r.%m%,
        r.time, r.device_id, r.id, r.created_at
    FROM unnest(kept) k JOIN flux.mg_%kind%_readings r ON r.device_id = k.device_id AND r.time = k.lo
    ON CONFLICT DO NOTHING;
END $$;
COMMENT ON FUNCTION flux.keep_%kind%_anchors(uuid[], timestamptz) IS 'Copies what the rollups after the cut need of the readings before it, and forgets older anchors of these devices.';

-- ── Deleting ───────────────────────────────────────────────────────────────────────────────────────────────────────

-- A plain DELETE is noted by a trigger; hypertables refuse triggers that see the deleted rows, so there it is refused.
DO $do$
BEGIN
    IF (SELECT s.engine FROM flux.storage s) = 'hypertable' THEN
        CREATE OR REPLACE TRIGGER refuse_delete BEFORE DELETE ON flux.mg_%kind%_readings
            FOR EACH STATEMENT EXECUTE FUNCTION flux.refuse_plain_delete();
    ELSE
        CREATE OR REPLACE TRIGGER note_removed AFTER DELETE ON flux.mg_%kind%_readings
            REFERENCING OLD TABLE AS old_readings FOR EACH STATEMENT EXECUTE FUNCTION flux.note_removed_readings('%kind%');
    END IF;
END $do$;
