-- %function%: the buckets with start_time ≤ time_b < end_time. What it returns is a contract.
-- (Rendered once for each level. Dropped first: a new metric is a new column of the result.)

DROP FUNCTION IF EXISTS flux.%function%(timestamptz, timestamptz, uuid[]);
CREATE FUNCTION flux.%function%(
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
