-- One batch of meters: from the noted changes to the rows of all three levels, in the caller's transaction. The devices'
-- rows in rollup_devices are locked already, so nobody else works on these devices. Each statement sees what was
-- committed before it began; readings that arrive meanwhile have notes that the next batch takes.

CREATE OR REPLACE FUNCTION flux.rollup_refresh_meters(devices uuid[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    changes  flux.rollup_range[];  -- what changed, both ends included
    spans    flux.rollup_range[];  -- the buckets that it touches, [lo, hi)
    wider    flux.rollup_range[];
    exact    flux.rollup_range[];
    piece    flux.rollup_range;
    clean    flux.rollup_range[];
    marked   flux.rollup_range[];
    written  bigint;
BEGIN
    -- ── take the changes, at most 31 days of a device at once: the rest stays noted ──
    WITH oldest AS (
        SELECT c.device_id, min(c.from_time) + interval '744 hours' AS until
        FROM flux.rollup_changes c WHERE c.device_id = ANY (devices) AND c.source = 'meter' GROUP BY c.device_id
    ), taken AS (
        DELETE FROM flux.rollup_changes c USING oldest o
        WHERE c.device_id = o.device_id AND c.source = 'meter' AND c.from_time < o.until
        RETURNING c.*, o.until
    ), rest AS (
        INSERT INTO flux.rollup_changes (device_id, source, from_time, to_time, removed, noted_at)
        SELECT t.device_id, t.source, t.until, t.to_time, t.removed, t.noted_at FROM taken t WHERE t.to_time >= t.until
    ), joined AS (
        -- changes less than a bucket apart are one
        SELECT t.device_id, t.removed,
               unnest(range_agg(tstzrange(t.from_time, least(t.to_time, t.until) + interval '5 minutes'))) AS r
        FROM taken t GROUP BY t.device_id, t.removed
    )
    SELECT array_agg((j.device_id, lower(j.r), upper(j.r) - interval '5 minutes', j.removed)::flux.rollup_range)
    INTO changes FROM joined j;
    IF changes IS NULL THEN
        RETURN 0;
    END IF;
    changes := flux.rollup_mark_readings(changes);

    -- ── counters that a device reports for the first time ──
    UPDATE flux.rollup_devices d SET counters = d.counters || n.names
    FROM (
        SELECT c.device_id, array_agg(DISTINCT s.name) AS names
        FROM unnest(changes) c
        JOIN flux.rollup_devices d ON d.device_id = c.device_id AND cardinality(d.counters) < %counters%
        CROSS JOIN LATERAL (
            SELECT
@counter                count(r.%m%) > 0 AS %m%,
                true
            FROM flux.rollup_meter_readings r WHERE r.device_id = c.device_id AND r.time >= c.lo AND r.time <= c.hi
        ) f
        CROSS JOIN LATERAL (VALUES
@counter{, }            ('%m%', f.%m%)
        ) s(name, reported)
        WHERE s.reported AND s.name <> ALL (d.counters)
        GROUP BY c.device_id
    ) n WHERE d.device_id = n.device_id;

    -- ── widen to the neighbouring readings: what lies between them and the change is interpolated anew ──
    SELECT array_agg((w.device_id, date_bin('5 minutes', w.lo, %epoch%),
                      date_bin('5 minutes', w.hi, %epoch%) + interval '5 minutes', w.forced)::flux.rollup_range)
    INTO spans
    FROM (
        SELECT c.device_id, c.forced,
            least(c.lo, before.time, CASE WHEN c.forced THEN (
                -- of a reading that went, the rows tell how far it reached
                SELECT min(t.time_b) FROM flux.mg_meter_readings_5m_intermediate t
                WHERE t.device_id = c.device_id AND t.time_b >= c.lo - l2.gap AND t.time_b < c.lo) END) AS lo,
            greatest(c.hi, after.time, CASE WHEN c.forced THEN (
                SELECT max(t.time_b) FROM flux.mg_meter_readings_5m_intermediate t
                WHERE t.device_id = c.device_id AND t.time_b > c.hi AND t.time_b <= c.hi + l2.gap) END) AS hi
        FROM unnest(changes) c
        JOIN flux.rollup_devices d ON d.device_id = c.device_id
        JOIN flux.mg_device_registry g ON g.id = c.device_id
        CROSS JOIN LATERAL (SELECT make_interval(secs => flux.gap_limit_seconds(g.metadata)) AS gap OFFSET 0) l2
        CROSS JOIN LATERAL (SELECT flux.rollup_marked(c.device_id, c.lo - l2.gap, c.hi + l2.gap) AS marked OFFSET 0) k
        CROSS JOIN LATERAL (
            SELECT CASE WHEN k.marked THEN flux.rollup_reading_before_marked(c.device_id, c.lo, c.lo - l2.gap, d.counters)
                        ELSE flux.rollup_reading_before(c.device_id, c.lo, c.lo - l2.gap, d.counters) END AS time OFFSET 0
        ) before
        CROSS JOIN LATERAL (
            SELECT CASE WHEN k.marked THEN flux.rollup_reading_after_marked(c.device_id, c.hi, c.hi + l2.gap, d.counters)
                        ELSE flux.rollup_reading_after(c.device_id, c.hi, c.hi + l2.gap, d.counters) END AS time OFFSET 0
        ) after
    ) w;

    -- ── and to the counter events that they touch: a fall is judged as a whole ──
    LOOP
        SELECT array_agg((j.device_id, lower(j.r), upper(j.r), false)::flux.rollup_range ORDER BY j.device_id, j.r) INTO wider
        FROM (
            SELECT s.device_id, unnest(range_agg(tstzrange(
                least(s.lo, date_bin('5 minutes', e.lo, %epoch%)),
                greatest(s.hi, date_bin('5 minutes', e.hi, %epoch%) + interval '5 minutes')))) AS r
            FROM unnest(spans) s
            LEFT JOIN LATERAL flux.rollup_events_touched(s.device_id, s.lo, s.hi) e ON true
            GROUP BY s.device_id
        ) j;
        exact := exact || array(SELECT s FROM unnest(spans) s WHERE s.forced);
        EXIT WHEN wider = spans;
        spans := wider;
    END LOOP;
    -- what raw data no longer tells stays as it is
    SELECT array_agg((s.device_id, greatest(s.lo, c.cut), s.hi, false)::flux.rollup_range) INTO spans
    FROM unnest(spans) s
    JOIN flux.rollup_devices d ON d.device_id = s.device_id
    CROSS JOIN LATERAL (SELECT coalesce(flux.rollup_first_open_hour(d.cut), s.lo) AS cut) c
    WHERE s.hi > c.cut;
    IF spans IS NULL THEN
        RETURN 0;
    END IF;

    -- ── compute ──
    PERFORM flux.ensure_rollup_partitions('meter', spans);
    DELETE FROM flux.mg_meter_readings_5m_intermediate t USING unnest(spans) s
    WHERE t.device_id = s.device_id AND t.time_b >= s.lo AND t.time_b < s.hi;
    -- (a piece near which nothing is marked does not pay for marks)
    SELECT array_agg(p) FILTER (WHERE NOT k.marked), array_agg(p) FILTER (WHERE k.marked) INTO clean, marked
    FROM unnest(flux.rollup_days(spans)) p
    JOIN flux.mg_device_registry g ON g.id = p.device_id
    CROSS JOIN LATERAL (SELECT make_interval(secs => flux.gap_limit_seconds(g.metadata)) AS gap OFFSET 0) l
    CROSS JOIN LATERAL (SELECT flux.rollup_marked(p.device_id, p.lo - l.gap, p.hi + l.gap) AS marked OFFSET 0) k;
    written := 0;
    IF clean IS NOT NULL THEN
        SELECT f.buckets, f.irregulars INTO written, wider FROM flux.rollup_meter_fast(clean) f;
    END IF;
    IF marked IS NOT NULL THEN
        SELECT written + f.buckets, CASE WHEN clean IS NULL THEN f.irregulars ELSE wider || f.irregulars END
        INTO written, wider FROM flux.rollup_meter_fast_marked(marked) f;
    END IF;
    SELECT array_agg((x.device_id, lower(x.r), upper(x.r), x.forced)::flux.rollup_range) INTO exact
    FROM (
        SELECT y.device_id, y.forced, unnest(range_agg(tstzrange(y.lo, y.hi))) AS r
        FROM (
            SELECT (unnest(wider)).*
            UNION ALL
            SELECT f.device_id, greatest(f.lo, s.lo), least(f.hi, s.hi), true
            FROM unnest(exact) f JOIN unnest(spans) s ON s.device_id = f.device_id AND f.lo < s.hi AND f.hi > s.lo
            UNION ALL
            SELECT s.device_id, greatest(date_bin('5 minutes', e.good_time, %epoch%), s.lo),
                   least(date_bin('5 minutes', e.until, %epoch%) + interval '5 minutes', s.hi), false
            FROM unnest(spans) s JOIN flux.counter_events e ON e.device_id = s.device_id
                AND e.good_time < s.hi AND coalesce(e.until, 'infinity') >= s.lo
            UNION ALL
            -- a listed gap may have been filled so well that no row beside it is irregular any more: it must go
            SELECT s.device_id, greatest(date_bin('5 minutes', g.from_time, %epoch%), s.lo),
                   least(date_bin('5 minutes', g.to_time, %epoch%) + interval '5 minutes', s.hi), false
            FROM unnest(spans) s JOIN flux.rollup_gaps g ON g.device_id = s.device_id
                AND g.from_time < s.hi AND g.to_time > s.lo
            UNION ALL
            -- the line over the cut: rows before it have their part of it, and keep it
            SELECT s.device_id, s.lo, least(date_bin('5 minutes', r.time, %epoch%) + interval '5 minutes', s.hi), false
            FROM unnest(spans) s
            JOIN flux.rollup_devices d ON d.device_id = s.device_id AND s.lo = flux.rollup_first_open_hour(d.cut)
            CROSS JOIN LATERAL (
                SELECT r.time FROM flux.rollup_meter_readings r WHERE r.device_id = s.device_id AND r.time >= s.lo AND num_nonnulls(
@counter{, }                    r.%m%
                ) > 0 ORDER BY r.time LIMIT 1) r
        ) y GROUP BY y.device_id, y.forced
    ) x;
    FOREACH piece IN ARRAY coalesce(flux.rollup_days(exact), '{}') LOOP
        IF flux.rollup_marked(piece.device_id, '-infinity', 'infinity') THEN
            SELECT e.lo, e.hi INTO piece.lo, piece.hi FROM flux.rollup_meter_exact_marked(piece.device_id, piece.lo, piece.hi, piece.forced) e;
        ELSE
            SELECT e.lo, e.hi INTO piece.lo, piece.hi FROM flux.rollup_meter_exact(piece.device_id, piece.lo, piece.hi, piece.forced) e;
        END IF;
        spans := spans || piece;
    END LOOP;
    PERFORM flux.rollup_meter_30m(spans);
    PERFORM flux.rollup_meter_1h(spans);

    -- the batteries that these meters meter have their energy from here
    INSERT INTO flux.rollup_changes (device_id, source, from_time, to_time)
    SELECT k.bess, 'bess', s.lo, s.hi - interval '1 microsecond'
    FROM unnest(spans) s
    JOIN flux.mg_device_registry m ON m.id = s.device_id AND m.metadata ->> 'meter_type' = 'storage'
    JOIN LATERAL flux.storage_meters(m.site) k ON k.meter = m.id;
    RETURN written;
END $$;

CREATE OR REPLACE FUNCTION flux.rollup_days(spans flux.rollup_range[]) RETURNS flux.rollup_range[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT array_agg((s.device_id, greatest(s.lo, day), least(s.hi, day + interval '24 hours'), s.forced)::flux.rollup_range)
    FROM unnest(spans) s
    CROSS JOIN generate_series(date_bin('24 hours', s.lo, %epoch%), s.hi - interval '1 microsecond', interval '24 hours') day
$$;
COMMENT ON FUNCTION flux.rollup_days(flux.rollup_range[]) IS 'The same spans, cut at midnight UTC.';

CREATE OR REPLACE FUNCTION flux.rollup_whole(spans flux.rollup_range[], width interval) RETURNS flux.rollup_range[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT array_agg((m.device_id, lower(m.r), upper(m.r), false)::flux.rollup_range)
    FROM (SELECT s.device_id, unnest(range_agg(tstzrange(
              date_bin(width, s.lo, %epoch%),
              date_bin(width, s.hi + width - interval '1 microsecond', %epoch%)))) AS r
          FROM unnest(spans) s GROUP BY s.device_id) m
$$;
COMMENT ON FUNCTION flux.rollup_whole(flux.rollup_range[], interval) IS 'The whole buckets of this width that the spans touch, joined.';

CREATE OR REPLACE FUNCTION flux.rollup_first_open_hour(cut timestamptz) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
    SELECT date_bin('1 hour', cut + interval '1 hour' - interval '1 microsecond', %epoch%)
$$;

CREATE OR REPLACE FUNCTION flux.rollup_settled(
    of_device uuid, counter text, cut timestamptz, seconds double precision, held double precision, otherwise double precision
) RETURNS double precision LANGUAGE sql STABLE AS $$
    -- the line began so many seconds before the cut: all of the bucket before the cut is on it, or what held leaves
    SELECT CASE
        WHEN t.delta IS NOT NULL THEN CASE WHEN seconds >= 300 THEN t.delta * (seconds / 300) ELSE t.delta - held END
        WHEN EXISTS (SELECT FROM flux.dropped_pieces p WHERE p.table_name = 'mg_meter_readings_5m_intermediate' AND p.to_time >= cut)
            THEN otherwise
        ELSE 0 END
    FROM (VALUES (1)) one
    LEFT JOIN (
        SELECT CASE counter
@counter            WHEN '%m%' THEN m.%m%_delta
        END AS delta
        FROM flux.mg_meter_readings_5m_intermediate m WHERE m.device_id = of_device AND m.time_b = cut - interval '5 minutes'
    ) t ON true
$$;
COMMENT ON FUNCTION flux.rollup_settled(uuid, text, timestamptz, double precision, double precision, double precision) IS
    'How much of a line over the cut is in rows before it. held: what lines that end before the cut have in the last of these; otherwise: the answer where that row was dropped.';

CREATE OR REPLACE FUNCTION flux.rollup_events_touched(of_device uuid, from_time timestamptz, to_time timestamptz)
RETURNS TABLE (lo timestamptz, hi timestamptz) LANGUAGE sql STABLE AS $$
    -- of an undecided fall everything after it hangs in the air
    SELECT e.good_time, coalesce(e.until, (
        SELECT max(r.time) FROM flux.rollup_meter_readings r WHERE r.device_id = of_device))
    FROM flux.counter_events e
    WHERE e.device_id = of_device AND e.good_time < to_time AND coalesce(e.until, 'infinity') >= from_time
$$;

CREATE OR REPLACE FUNCTION flux.rollup_peak_minute(each real[], times timestamptz[], OUT mean real, OUT minute timestamptz)
LANGUAGE sql IMMUTABLE AS $$
    SELECT avg(s.value::double precision), date_bin('1 minute', s.time, %epoch%) FROM unnest(each, times) s(value, time)
    WHERE s.value IS NOT NULL GROUP BY 2 ORDER BY 1 DESC, 2 LIMIT 1
$$;
COMMENT ON FUNCTION flux.rollup_peak_minute(real[], timestamptz[]) IS
    'The largest mean of one minute, and which minute it was: for buckets with more than one reading in some minute.';
