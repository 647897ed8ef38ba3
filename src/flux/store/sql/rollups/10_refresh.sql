-- Refreshing: from any number of sessions at once, they share the work.

-- One batch in the caller's transaction (READ COMMITTED, the default): locks up to max_devices devices that have changes
-- and that nobody else is working on, and brings their rollups up to date. devices = 0: nothing is left for this session.
-- A device whose readings cannot be summed up (numbers beyond what a double holds) is left as it was, with the reason in
-- rollup_devices; its notes stay, and it is tried again after 5 minutes. The others go on.
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
    one    uuid;
    reason text;
BEGIN
    SELECT array_agg(l.device_id), count(*) INTO locked, devices
    FROM (SELECT d.device_id FROM flux.rollup_devices d
          WHERE EXISTS (SELECT FROM flux.rollup_changes c WHERE c.device_id = d.device_id)
              AND (d.failed_at IS NULL OR d.failed_at < clock_timestamp() - interval '5 minutes')
          LIMIT max_devices FOR UPDATE SKIP LOCKED) l;
    buckets := 0;
    IF devices = 0 THEN
        RETURN;
    END IF;
    BEGIN
        buckets := flux.rollup_refresh_meters(locked) + flux.rollup_refresh_bess(locked);
        UPDATE flux.rollup_devices d SET failed_at = NULL, failure = NULL
        WHERE d.device_id = ANY (locked) AND d.failed_at IS NOT NULL;
        RETURN;
    EXCEPTION WHEN data_exception OR integrity_constraint_violation OR cardinality_violation OR program_limit_exceeded THEN
        NULL;  -- one of them: which one is found below
    END;
    FOREACH one IN ARRAY locked LOOP
        reason := NULL;
        BEGIN
            buckets := buckets + flux.rollup_refresh_meters(ARRAY[one]) + flux.rollup_refresh_bess(ARRAY[one]);
        EXCEPTION WHEN data_exception OR integrity_constraint_violation OR cardinality_violation OR program_limit_exceeded THEN
            reason := SQLERRM;
            RAISE WARNING 'rollups of device % cannot be computed: %', one, reason;
        END;
        UPDATE flux.rollup_devices d SET failure = reason, failed_at = CASE WHEN reason IS NOT NULL THEN clock_timestamp() END
        WHERE d.device_id = one;
    END LOOP;
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
