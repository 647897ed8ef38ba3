-- Refreshing: from any number of sessions at once, they share the work.

-- One batch in the caller's transaction (READ COMMITTED, the default): locks up to max_devices devices that have changes
-- and that nobody else is working on, and brings their rollups up to date. devices = 0: nothing is left for this session.
-- The settings are what its statements want: they are nested loops over index scans, many and short.
CREATE OR REPLACE FUNCTION flux.refresh_rollups_batch(max_devices integer DEFAULT 100, OUT devices integer, OUT buckets bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off
SET plan_cache_mode = force_generic_plan
SET enable_memoize = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_sort = off
SET enable_seqscan = off
SET enable_material = off
AS $$
DECLARE
    locked uuid[];
BEGIN
    SELECT array_agg(l.device_id), count(*) INTO locked, devices
    FROM (SELECT d.device_id FROM flux.rollup_devices d
          WHERE EXISTS (SELECT FROM flux.rollup_changes c WHERE c.device_id = d.device_id)
          LIMIT max_devices FOR UPDATE SKIP LOCKED) l;
    buckets := 0;
    IF devices > 0 THEN
        buckets := flux.rollup_refresh_meters(locked) + flux.rollup_refresh_bess(locked);
    END IF;
END $$;
COMMENT ON FUNCTION flux.refresh_rollups_batch(integer) IS
    'Brings the rollups of up to max_devices changed devices up to date, in this transaction; devices = 0: nothing left to do here.';

-- No SET clause here: a procedure that has one may not commit.
CREATE OR REPLACE PROCEDURE flux.refresh_rollups(max_devices integer DEFAULT 100) LANGUAGE plpgsql AS $$
DECLARE
    done integer;
BEGIN
    LOOP
        SELECT b.devices INTO done FROM flux.refresh_rollups_batch(max_devices) b;
        COMMIT;
        EXIT WHEN done = 0;
    END LOOP;
END $$;
COMMENT ON PROCEDURE flux.refresh_rollups(integer) IS
    'CALL flux.refresh_rollups(): brings all rollups up to date, committing after each batch. Not inside a transaction block.';

CREATE OR REPLACE FUNCTION flux.rollup_final_before(of_device uuid, as_of timestamptz DEFAULT now()) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
    -- a bucket is final when a reading at or after its end exists, or the gap limit has passed
    SELECT date_bin('5 minutes', greatest(
        CASE g.type WHEN 'meter' THEN (SELECT max(r.time) FROM flux.mg_meter_readings r WHERE r.device_id = g.id)
                    ELSE (SELECT max(r.time) FROM flux.mg_bess_readings r WHERE r.device_id = g.id) END,
        as_of - make_interval(secs => flux.gap_limit_seconds(g.metadata))), %epoch%)
    FROM flux.mg_device_registry g WHERE g.id = of_device
$$;
COMMENT ON FUNCTION flux.rollup_final_before(uuid, timestamptz) IS
    'Buckets of this device that end by this time are final: only late or corrected readings can still change them.';
