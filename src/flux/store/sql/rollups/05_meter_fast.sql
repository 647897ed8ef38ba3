-- The fast path: whole pieces (a device's span within one day) in one statement. Where no counter falls, a counter's
-- lowest value in a bucket is its first and the highest its last, so
--     delta = (max − min) + the bucket's share of the step from the bucket before + its share of the step to the next.
-- Where that does not hold the row is marked irregular, and the exact path (04) works it out.
-- (Rendered twice: …_marked leaves out values that are marked.)

CREATE OR REPLACE FUNCTION flux.rollup_meter_fast%marked%(pieces flux.rollup_range[], OUT buckets bigint, OUT irregulars flux.rollup_range[])
LANGUAGE plpgsql AS $$
BEGIN
    WITH written AS (
        INSERT INTO flux.mg_meter_readings_5m_intermediate (
@counter            %m%_min, %m%_delta,
@level            %m%_sum, %m%_avg, %m%_min, %m%_max, %m%_count,
@demand            %m%_max_1m, %m%_max_1m_at, %m%_max_5m, %m%_max_5m_at, %m%_abs_sum,
@weighted            %m%_weighted, %m%_weighted_sum, %m%_weight,
            device_id, time_b, samples, irregular)
        SELECT
            -- i = 0 is the bucket itself; the others lie between it and the next one that has readings
@counter            CASE WHEN i = 0 THEN w.%m%_min END,
@counter            CASE WHEN i = 0 THEN w.%m%_max - w.%m%_min + coalesce(w.%m%_before * w.share_before, 0) + coalesce(w.%m%_after * w.share_after, 0) ELSE w.%m%_after * w.share_empty END,
@level            CASE WHEN i = 0 THEN w.%m%_sum END,
@level            CASE WHEN i = 0 THEN w.%m%_sum / nullif(w.%m%_n, 0) END,
@level            CASE WHEN i = 0 THEN w.%m%_min END,
@level            CASE WHEN i = 0 THEN w.%m%_max END,
@level            CASE WHEN i = 0 THEN nullif(w.%m%_n, w.samples) END,
@demand            CASE WHEN i = 0 THEN CASE WHEN w.shared THEN (flux.rollup_peak_minute(w.%m%_each, w.times)).mean ELSE w.%m%_max END END,
@demand            CASE WHEN i = 0 THEN CASE WHEN w.shared THEN (flux.rollup_peak_minute(w.%m%_each, w.times)).minute ELSE date_bin('1 minute', w.times[array_position(w.%m%_each, w.%m%_max)], %epoch%) END END,
@demand            CASE WHEN i = 0 THEN w.%m%_sum / nullif(w.%m%_n, 0) END,
@demand            CASE WHEN i = 0 AND w.%m%_n > 0 THEN w.bucket END,
@demand            CASE WHEN i = 0 THEN w.%m%_abs_sum END,
@weighted            CASE WHEN i = 0 THEN w.%m%_weighted_sum / nullif(w.%m%_weight, 0) END,
@weighted            CASE WHEN i = 0 THEN w.%m%_weighted_sum END,
@weighted            CASE WHEN i = 0 THEN w.%m%_weight END,
            p.device_id,
            w.bucket + i * interval '5 minutes',
            CASE WHEN i = 0 THEN w.samples ELSE 0 END,
            w.irregular
        FROM unnest(pieces) p
        JOIN flux.rollup_devices d ON d.device_id = p.device_id
        JOIN flux.mg_device_registry g ON g.id = p.device_id
        -- (OFFSET 0: worked out once a piece, not wherever it is used)
        CROSS JOIN LATERAL (SELECT flux.gap_limit_seconds(g.metadata) AS gap_s, flux.carried_per_second(g.metadata) AS carried OFFSET 0) l
        CROSS JOIN LATERAL (SELECT make_interval(secs => l.gap_s) AS gap OFFSET 0) l2
        -- the reading with counters before the piece, and the one after it
        LEFT JOIN LATERAL (
            SELECT r.time, num_nonnulls(
@counter{, }                r.%m%
            ) AS counters FROM flux.%readings% r
            WHERE r.device_id = p.device_id AND r.time < p.lo AND r.time >= p.lo - l2.gap AND num_nonnulls(
@counter{, }                r.%m%
            ) > 0 AND d.counters <> '{}' ORDER BY r.time DESC LIMIT 1
        ) before ON true
        LEFT JOIN LATERAL (
            SELECT r.time FROM flux.%readings% r
            WHERE r.device_id = p.device_id AND r.time >= p.hi AND r.time < p.hi + l2.gap AND num_nonnulls(
@counter{, }                r.%m%
            ) > 0 AND d.counters <> '{}' ORDER BY r.time LIMIT 1
        ) after ON true
        -- how many counters a full reading has here: all that the device ever reported, or fewer if it stopped; and
        -- whether there are readings after the piece
        CROSS JOIN LATERAL (
            SELECT CASE WHEN before.counters = cardinality(d.counters) THEN before.counters
                        ELSE flux.rollup_counters_near%marked%(p.device_id, p.lo - l2.gap, p.hi + l2.gap) END AS counters,
                   EXISTS (SELECT FROM flux.%readings% r WHERE r.device_id = p.device_id AND r.time >= p.hi) AS more
            OFFSET 0
        ) every
        CROSS JOIN LATERAL (
            SELECT s.*,
                CASE WHEN s.step_before <= l.gap_s THEN date_part('epoch', s.first_at - s.bucket) / s.step_before END AS share_before,
                CASE WHEN s.step_after <= l.gap_s THEN (300 - date_part('epoch', s.last_at - s.bucket)) / s.step_after END AS share_after,
                300 / s.step_after AS share_empty,
                -- the buckets until the next one; where the exact path decides, whatever could lie in a gap
                CASE WHEN s.step_after <= l.gap_s
                        OR (every.counters > 0 AND (s.odd OR s.odd_after) AND s.step_empty * 300 <= l.gap_s + 600)
                    THEN s.step_empty - 1 ELSE 0 END AS empty,
                every.counters > 0 AND coalesce(
                    s.odd OR s.odd_before OR s.odd_after OR s.falls_before OR s.falls_after
                    OR (l.carried IS NOT NULL AND (
@energy{ OR }                        s.%m%_before > l.carried * (s.step_before + 60) OR s.%m%_after > l.carried * (s.step_after + 60)
                    ))
                    OR s.step_before > l.gap_s OR s.step_after > l.gap_s
                    -- the first one after a gap or of all; and the last one before a gap
                    OR (s.step_before IS NULL AND before.time IS NULL)
                    OR (s.step_after IS NULL AND after.time IS NULL AND every.more)
                , false) AS irregular
            FROM (
                SELECT b.*,
                    date_part('epoch', b.first_at - lag(b.last_at) OVER o) AS step_before,
                    date_part('epoch', lead(b.first_at) OVER o - b.last_at) AS step_after,
                    (date_part('epoch', lead(b.bucket) OVER o - b.bucket) / 300)::integer AS step_empty,
                    coalesce(lag(b.odd) OVER o, false) AS odd_before,
                    coalesce(lead(b.odd) OVER o, false) AS odd_after,
@counter                    b.%m%_min - lag(b.%m%_max) OVER o AS %m%_before,
@counter                    lead(b.%m%_min) OVER o - b.%m%_max AS %m%_after,
                    coalesce(
@counter{ OR }                    b.%m%_min < lag(b.%m%_max) OVER o
                    , false) AS falls_before,
                    coalesce(
@counter{ OR }                    lead(b.%m%_min) OVER o < b.%m%_max
                    , false) AS falls_after
                FROM (
                    SELECT date_bin('5 minutes', r.time, %epoch%) AS bucket,
                        count(*)::integer AS samples,
@counter                        min(r.%m%) AS %m%_min, max(r.%m%) AS %m%_max,
@level                        sum(r.%m%::double precision) AS %m%_sum, count(r.%m%)::integer AS %m%_n, min(r.%m%) AS %m%_min, max(r.%m%) AS %m%_max,
@demand                        array_agg(r.%m%) AS %m%_each, sum(abs(r.%m%::double precision)) AS %m%_abs_sum,
@weighted                        sum(r.%m%::double precision * abs(r.%w%)) AS %m%_weighted_sum, sum(abs(r.%w%::double precision)) FILTER (WHERE r.%m% IS NOT NULL) AS %m%_weight,
                        array_agg(r.time) AS times, bool_or(floor(r.epoch / 60) = floor(r.previous[%counters% + 1] / 60)) IS TRUE AS shared,
                        min(r.time) FILTER (WHERE r.counters > 0) AS first_at,
                        max(r.time) FILTER (WHERE r.counters > 0) AS last_at,
                        -- a reading with some counters, a bucket without any, or a fall inside
                        count(*) FILTER (WHERE r.counters NOT IN (0, every.counters)) > 0
                        OR count(*) FILTER (WHERE r.counters > 0) = 0
                        OR (count(*) FILTER (WHERE r.counters > 0) BETWEEN 2 AND count(*) - 1)
                        OR bool_or(
@counter{ OR }                            r.%m% < r.previous[%k%]
                        ) IS TRUE
                        -- or a rise that cannot have been carried
                        OR (l.carried IS NOT NULL AND bool_or(
@energy{ OR }                            r.%m% - r.previous[%at%] > l.carried * (r.epoch - r.previous[%counters% + 1] + 60)
                        ) IS TRUE) AS odd
                    FROM (
                        SELECT r.*, lag(r.now) OVER (ORDER BY r.time) AS previous
                        FROM (
                            SELECT r.time, r.epoch,
@counter                                r.%m%,
@level                                r.%m%,
                                num_nonnulls(
@counter{, }                                r.%m%
                                ) AS counters,
                                -- padded: below 127 bytes it would be packed, and unpacked for each element read
                                ARRAY[
@counter                                r.%m%,
                                r.epoch, 0, 0, 0] AS now
                            FROM (SELECT r.*, date_part('epoch', r.time) AS epoch FROM flux.%readings% r) r
                            WHERE r.device_id = p.device_id
                                AND r.time >= coalesce(before.time, p.lo)
                                AND r.time <= coalesce(after.time, p.hi - interval '1 microsecond')
                        ) r
                    ) r
                    GROUP BY 1
                ) b
                WINDOW o AS (ORDER BY b.bucket)
            ) s
            OFFSET 0
        ) w
        CROSS JOIN LATERAL generate_series(0, w.empty) i
        WHERE w.bucket + i * interval '5 minutes' >= p.lo AND w.bucket + i * interval '5 minutes' < p.hi
        RETURNING device_id, time_b, mg_meter_readings_5m_intermediate.irregular
    )
    SELECT count(*), array_agg((x.device_id, x.time_b, x.time_b + interval '5 minutes', false)::flux.rollup_range) FILTER (WHERE x.irregular)
    INTO buckets, irregulars
    FROM written x;
END $$;

CREATE OR REPLACE FUNCTION flux.rollup_counters_near%marked%(of_device uuid, lo timestamptz, hi timestamptz) RETURNS integer
LANGUAGE sql STABLE AS $$
    SELECT (
@counter{ + }        (count(r.%m%) > 0)::integer
    ) FROM flux.%readings% r WHERE r.device_id = of_device AND r.time >= lo AND r.time <= hi
$$;
COMMENT ON FUNCTION flux.rollup_counters_near%marked%(uuid, timestamptz, timestamptz) IS 'How many counters a device reported at least once from lo to hi.';
