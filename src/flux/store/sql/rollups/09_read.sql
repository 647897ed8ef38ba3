-- %function%: the buckets with start_time ≤ time_b < end_time. What it returns is a contract.
-- (Rendered once for each level. Dropped first only where its columns change, by a new metric: rights that were granted
-- on it and views that were built on it stay.)

DO $do$
BEGIN
    IF (SELECT p.proargnames <> ARRAY[
            'start_time', 'end_time', 'device_ids', 'time_b', 'device_id', 'samples',
@level            '%m%_avg', '%m%_min', '%m%_max',
@counter{, }            '%m%_min', '%m%_delta'
        ] FROM pg_proc p WHERE p.oid = to_regprocedure('flux.%function%(timestamptz, timestamptz, uuid[])')) THEN
        DROP FUNCTION flux.%function%(timestamptz, timestamptz, uuid[]);
    END IF;
END $do$;
CREATE OR REPLACE FUNCTION flux.%function%(
    start_time timestamptz DEFAULT now() - interval '24 hours',
    end_time timestamptz DEFAULT now(),
    device_ids uuid[] DEFAULT NULL
) RETURNS TABLE (
    time_b timestamptz,
    device_id uuid,
    samples integer,
@level    %m%_avg real, %m%_min real, %m%_max real,
@counter{, }    %m%_min double precision, %m%_delta double precision
) LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT t.time_b, t.device_id, t.samples,
@level        t.%m%_avg, t.%m%_min, t.%m%_max,
@counter{, }        t.%m%_min, t.%m%_delta
    FROM flux.rollup_devices d
    CROSS JOIN LATERAL (
        SELECT * FROM flux.%table% b
        WHERE b.device_id = d.device_id AND b.time_b >= start_time AND b.time_b < end_time
    ) t
    WHERE device_ids IS NULL OR d.device_id = ANY (device_ids)
$$;
COMMENT ON FUNCTION flux.%function%(timestamptz, timestamptz, uuid[]) IS
    'Meters by buckets of %width%: start_time ≤ time_b < end_time; of all devices where none is named.';
