-- Values that cannot be true are marked: stored, and left out of the rollups. A refresh marks before it computes, from the
-- same changes; a device of which no limit is known is not looked at.
--   range   outside what the template calls plausible
--   spike   100 kWh, 9100 kWh, 101 kWh: a counter rose by more than the device can carry, and came back as a glitch does
--   stuck   a power bit-equal for power_stuck_after, while the counters moved otherwise
-- Whether a value is a spike or stuck depends on readings near it and on nothing else, so the order in which they came
-- makes no difference.

DO $do$
BEGIN
    IF to_regtype('flux.found_mark') IS NULL THEN
        CREATE TYPE flux.found_mark AS (device_id uuid, time timestamptz, metric text, value double precision);
    END IF;
END $do$;

CREATE OR REPLACE FUNCTION flux.rollup_out_of_range(changes flux.rollup_range[]) RETURNS SETOF flux.found_mark
LANGUAGE sql STABLE AS $$
    WITH limits AS MATERIALIZED (
        SELECT t.template, i.inverted,
@level            (max(CASE WHEN t.signed AND i.inverted THEN -t.highest ELSE t.lowest END) FILTER (WHERE t.metric = '%m%'))::real AS %m%_lowest,
@level            (max(CASE WHEN t.signed AND i.inverted THEN -t.lowest ELSE t.highest END) FILTER (WHERE t.metric = '%m%'))::real AS %m%_highest,
@counter            max(t.lowest) FILTER (WHERE t.metric = '%m%') AS %m%_lowest,
@counter            max(t.highest) FILTER (WHERE t.metric = '%m%') AS %m%_highest,
            count(*)
        FROM flux.template_metrics t CROSS JOIN (VALUES (false), (true)) i(inverted)
        WHERE (t.lowest IS NOT NULL OR t.highest IS NOT NULL) AND t.template IN (
            SELECT flux.template_of(g.metadata) FROM unnest(changes) c JOIN flux.mg_device_registry g ON g.id = c.device_id)
        GROUP BY 1, 2
    )
    SELECT c.device_id, r.time, v.metric, v.value
    FROM unnest(changes) c
    JOIN flux.mg_device_registry g ON g.id = c.device_id
    JOIN limits l ON l.template = flux.template_of(g.metadata)
        AND l.inverted = coalesce(g.metadata -> 'invert' = 'true'::jsonb, false)
    JOIN flux.rollup_meter_readings r ON r.device_id = c.device_id AND r.time >= c.lo AND r.time <= c.hi AND (
@level        r.%m% < l.%m%_lowest OR r.%m% > l.%m%_highest OR
@counter        r.%m% < l.%m%_lowest OR r.%m% > l.%m%_highest OR
        false)
    CROSS JOIN LATERAL (VALUES
@level        ('%m%', r.%m%::double precision, l.%m%_lowest::double precision, l.%m%_highest::double precision),
@counter{, }        ('%m%', r.%m%, l.%m%_lowest, l.%m%_highest)
    ) v(metric, value, lowest, highest)
    WHERE v.value < v.lowest OR v.value > v.highest
$$;

-- Whether some counter fell, rose too far or was missing at or beside [lo, hi]; where not, nothing there is a spike.
CREATE OR REPLACE FUNCTION flux.rollup_uneven(of_device uuid, lo timestamptz, hi timestamptz, carried double precision)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT bool_or(
@energy{ OR }        (r.%m% < r.previous[%k%]) OR (r.%m% - r.previous[%k%] > carried * (r.seconds + 60)) OR ((r.%m% IS NULL) <> (r.previous[%k%] IS NULL))
    )
    FROM (
        SELECT r.*, lag(r.now) OVER o AS previous, date_part('epoch', r.time - lag(r.time) OVER o) AS seconds
        FROM (
            SELECT r.*, ARRAY[
@energy{, }                r.%m%
            ] AS now FROM (
                (SELECT * FROM flux.rollup_meter_readings r WHERE r.device_id = of_device AND r.time < lo
                    AND r.time >= lo - interval '4 hours' ORDER BY r.time DESC LIMIT 2)
                UNION ALL
                SELECT * FROM flux.rollup_meter_readings r WHERE r.device_id = of_device AND r.time >= lo AND r.time <= hi
                UNION ALL
                (SELECT * FROM flux.rollup_meter_readings r WHERE r.device_id = of_device AND r.time > hi
                    AND r.time <= hi + interval '4 hours' ORDER BY r.time LIMIT 2)
            ) r
        ) r WINDOW o AS (ORDER BY r.time)
    ) r WHERE r.previous IS NOT NULL
$$;

-- The spikes that begin in [lo, hi]. One begins with a rise from the reading before (at most 2 hours before, and not
-- itself fallen) that cannot have been carried; within 3 readings or 5 minutes, whichever is longer, but at most 2
-- hours, the counter is back on the line that it left. What lies between and too high is the spike.
CREATE OR REPLACE FUNCTION flux.rollup_spikes(of_device uuid, lo timestamptz, hi timestamptz, carried double precision)
RETURNS SETOF flux.found_mark LANGUAGE sql STABLE AS $$
    WITH around AS MATERIALIZED (
        SELECT r.* FROM flux.mg_meter_readings_judged r
        WHERE r.device_id = of_device AND r.time >= lo - interval '4 hours' AND r.time <= hi + interval '2 hours'
    ), readings AS MATERIALIZED (
@energy{ UNION ALL }        SELECT '%m%' AS metric, r.time, r.%m% AS v, lag(r.time) OVER o AS e_at, lag(r.%m%) OVER o AS e, CASE WHEN lag(r.time) OVER o - lag(r.time, 2) OVER o <= interval '2 hours' THEN lag(r.%m%, 2) OVER o END AS d, row_number() OVER o AS n FROM around r WHERE r.%m% IS NOT NULL WINDOW o AS (ORDER BY r.time)
    ), begun AS (
        SELECT s.* FROM readings s
        WHERE s.time >= lo AND s.time <= hi AND s.e_at >= s.time - interval '2 hours' AND (s.d IS NULL OR s.d <= s.e)
            AND s.v - s.e > carried * (date_part('epoch', s.time - s.e_at) + 60)
            AND NOT EXISTS (SELECT FROM flux.reading_marks k WHERE k.device_id = of_device AND k.time = s.time
                AND k.metric = s.metric AND k.lifted_at IS NOT NULL AND k.value = s.v)
    )
    SELECT DISTINCT of_device, i.time, i.metric, i.v
    FROM begun s
    CROSS JOIN LATERAL (
        SELECT l.time FROM readings l
        WHERE l.metric = s.metric AND l.time > s.time AND l.time <= s.time + interval '2 hours'
            AND (l.n <= s.n + 3 OR l.time <= s.time + interval '5 minutes')
            AND l.v >= s.e AND l.v - s.e <= carried * (date_part('epoch', l.time - s.e_at) + 60)
        ORDER BY l.time LIMIT 1
    ) back
    JOIN readings i ON i.metric = s.metric AND i.time >= s.time AND i.time < back.time
        AND i.v - s.e > carried * (date_part('epoch', i.time - s.e_at) + 60)
$$;

CREATE OR REPLACE FUNCTION flux.counter_resolution(metadata jsonb, counter text) RETURNS double precision
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    SELECT coalesce((SELECT t.resolution * coalesce(flux.transformer_factor(metadata, t.ratio), 1) FROM flux.template_metrics t
                     WHERE t.template = flux.template_of(metadata) AND t.metric = counter), 0)
$$;
COMMENT ON FUNCTION flux.counter_resolution(jsonb, text) IS 'The smallest step of a counter''s register, in its unit; 0: not known.';

-- The powers in [lo, hi] that are stuck: bit-equal in all readings for at least `span` around it (as far as `span` to
-- either side), while the counters moved, by something else than this power comes to: 5 % and two steps of their registers.
CREATE OR REPLACE FUNCTION flux.rollup_stuck(
    of_device uuid, lo timestamptz, hi timestamptz, span interval, gap interval, of_metadata jsonb
) RETURNS SETOF flux.found_mark LANGUAGE sql STABLE AS $$
    WITH around AS MATERIALIZED (
        SELECT r.* FROM flux.mg_meter_readings_judged r
        WHERE r.device_id = of_device AND r.time >= lo - span - gap AND r.time <= hi + span + gap
    )
@counted{ UNION ALL }    SELECT of_device, w.time, '%m%', w.v::double precision FROM (SELECT r.time, r.v, first_value(r.time) OVER near AS a, last_value(r.time) OVER near AS b, last_value(r.imported) OVER near - first_value(r.imported) OVER near AS imported, last_value(r.exported) OVER near - first_value(r.exported) OVER near AS exported FROM (SELECT r.time, r.%m% AS v, r.energy_imported_%e% AS imported, r.energy_exported_%e% AS exported, count(*) FILTER (WHERE r.%m% IS DISTINCT FROM r.before OR r.time - r.before_at > gap) OVER (ORDER BY r.time) AS run FROM (SELECT r.*, lag(r.%m%) OVER o AS before, lag(r.time) OVER o AS before_at FROM around r WHERE r.%m% IS NOT NULL WINDOW o AS (ORDER BY r.time)) r) r WINDOW near AS (PARTITION BY r.run ORDER BY r.time RANGE BETWEEN span PRECEDING AND span FOLLOWING)) w CROSS JOIN LATERAL (SELECT date_part('epoch', w.b - w.a) * abs(w.v::double precision) / 3600 AS told, abs(coalesce(w.imported, 0) - coalesce(w.exported, 0)) AS counted, 2 * flux.counter_resolution(of_metadata, 'energy_imported_%e%') AS steps) c WHERE w.time >= lo AND w.time <= hi AND w.b - w.a >= span AND coalesce(w.imported, 0) >= 0 AND coalesce(w.exported, 0) >= 0 AND coalesce(w.imported, 0) + coalesce(w.exported, 0) > c.steps AND abs(c.counted - c.told) > 0.05 * greatest(c.counted, c.told) + c.steps
$$;

CREATE OR REPLACE FUNCTION flux.judged_from(of_device uuid, of_reason text) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    SELECT coalesce(d.cut + CASE WHEN of_reason = 'stuck' THEN interval '1 day' ELSE interval '0' END, '-infinity')
    FROM flux.rollup_devices d WHERE d.device_id = of_device
$$;
COMMENT ON FUNCTION flux.judged_from(uuid, text) IS
    'Before this nothing is judged again: the readings that tell went with the cut. Stuck powers are told from up to a day before.';

-- Marks of one reason in these zones are made those that were seen; returns where that changed something. A mark that
-- a person lifted stays lifted for as long as the value is the same.
CREATE OR REPLACE FUNCTION flux.rollup_put_marks(zones flux.rollup_range[], of_reason text, seen flux.found_mark[])
RETURNS flux.rollup_range[] LANGUAGE plpgsql SET enable_hashjoin = on AS $$
DECLARE
    changed flux.rollup_range[];
BEGIN
    WITH gone AS (
        DELETE FROM flux.reading_marks m USING unnest(zones) z
        WHERE m.device_id = z.device_id AND m.time >= z.lo AND m.time <= z.hi AND m.reason = of_reason AND m.lifted_at IS NULL
            AND m.time >= flux.judged_from(z.device_id, of_reason)
            AND NOT EXISTS (SELECT FROM unnest(seen) f WHERE f.device_id = m.device_id AND f.time = m.time AND f.metric = m.metric)
        RETURNING m.device_id, m.time
    ), put AS (
        INSERT INTO flux.reading_marks AS m (device_id, time, metric, reason, value, marked_by)
        SELECT DISTINCT f.device_id, f.time, f.metric, of_reason, f.value, 'flux' FROM unnest(seen) f
        WHERE f.time >= flux.judged_from(f.device_id, of_reason)
        ON CONFLICT (device_id, time, metric) DO UPDATE SET
            reason = excluded.reason, value = excluded.value, marked_at = now(), marked_by = excluded.marked_by, note = NULL,
            lifted_at = NULL, lifted_by = NULL, lift_note = NULL
            WHERE (m.value IS DISTINCT FROM excluded.value OR (m.lifted_at IS NULL AND m.reason <> excluded.reason))
                AND (m.reason <> 'operator' OR m.lifted_at IS NOT NULL)
        RETURNING m.device_id, m.time
    )
    SELECT array_agg((c.device_id, c.time, c.time, true)::flux.rollup_range) INTO changed
    FROM (SELECT g.device_id, g.time FROM gone g UNION SELECT p.device_id, p.time FROM put p) c;
    RETURN changed;
END $$;

-- Marks what these changes make implausible, or plausible again; returns them with what that changed beside them.
CREATE OR REPLACE FUNCTION flux.rollup_mark_readings(changes flux.rollup_range[]) RETURNS flux.rollup_range[]
LANGUAGE plpgsql AS $$
DECLARE
    limited   flux.rollup_range[];
    uneven    flux.rollup_range[];
    watched   flux.rollup_range[];
    has_range boolean;
    seen     flux.found_mark[];
    beside    flux.rollup_range[] := '{}';
BEGIN
    SELECT bool_or(EXISTS (SELECT FROM flux.template_metrics t WHERE t.template = flux.template_of(g.metadata)
                       AND (t.lowest IS NOT NULL OR t.highest IS NOT NULL))
                   OR EXISTS (SELECT FROM flux.reading_marks m WHERE m.device_id = g.id)),
           array_agg(c) FILTER (WHERE flux.carried_per_second(g.metadata) IS NOT NULL
               OR EXISTS (SELECT FROM flux.reading_marks m WHERE m.device_id = g.id)),
           array_agg(c) FILTER (WHERE g.metadata ? 'power_stuck_after'
               OR EXISTS (SELECT FROM flux.reading_marks m WHERE m.device_id = g.id))
    INTO has_range, limited, watched
    FROM unnest(changes) c JOIN flux.mg_device_registry g ON g.id = c.device_id;

    IF has_range THEN
        -- (such a mark depends on its own reading, which is among the changes already)
        seen := array(SELECT f FROM flux.rollup_out_of_range(changes) f);
        IF seen <> '{}' OR EXISTS (SELECT FROM unnest(changes) c JOIN flux.reading_marks m ON m.device_id = c.device_id
                AND m.time >= c.lo AND m.time <= c.hi AND m.reason = 'range') THEN
            PERFORM flux.rollup_put_marks(changes, 'range', seen);
        END IF;
    END IF;

    IF limited IS NOT NULL THEN
        SELECT array_agg((c.device_id, c.lo - interval '2 hours', c.hi + interval '6 hours', false)::flux.rollup_range) INTO uneven
        FROM unnest(limited) c
        JOIN flux.mg_device_registry g ON g.id = c.device_id
        WHERE EXISTS (SELECT FROM flux.reading_marks m WHERE m.device_id = c.device_id
                AND m.time >= c.lo - interval '1 day' AND m.time <= c.hi + interval '1 day')
            OR (flux.carried_per_second(g.metadata) IS NOT NULL AND (
                EXISTS (SELECT FROM flux.counter_events e WHERE e.device_id = c.device_id
                    AND e.time >= c.lo - interval '1 day' AND e.time <= c.hi + interval '1 day')
                OR flux.rollup_uneven(c.device_id, c.lo, c.hi, flux.carried_per_second(g.metadata))));
        IF uneven IS NOT NULL THEN
            seen := array(
                SELECT f FROM unnest(uneven) z JOIN flux.mg_device_registry g ON g.id = z.device_id
                CROSS JOIN LATERAL flux.rollup_spikes(
                    z.device_id, z.lo - interval '2 hours', z.hi, flux.carried_per_second(g.metadata)) f);
            beside := beside || flux.rollup_put_marks(uneven, 'spike', seen);
        END IF;
    END IF;

    IF watched IS NOT NULL THEN
        SELECT array_agg((c.device_id, c.lo - coalesce(s.span, interval '0'), c.hi + coalesce(s.span, interval '0'), false)::flux.rollup_range)
        INTO watched
        FROM unnest(watched) c JOIN flux.mg_device_registry g ON g.id = c.device_id
        CROSS JOIN LATERAL (SELECT flux.stuck_after(g.metadata) AS span) s;
        seen := array(
            SELECT f FROM unnest(watched) z JOIN flux.mg_device_registry g ON g.id = z.device_id
            CROSS JOIN LATERAL flux.rollup_stuck(z.device_id, z.lo, z.hi, flux.stuck_after(g.metadata),
                make_interval(secs => flux.gap_limit_seconds(g.metadata)), g.metadata) f
            WHERE flux.stuck_after(g.metadata) IS NOT NULL);
        beside := beside || flux.rollup_put_marks(watched, 'stuck', seen);
    END IF;
    RETURN changes || beside;
END $$;

CREATE OR REPLACE FUNCTION flux.stuck_after(metadata jsonb) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    SELECT make_interval(secs => least(greatest(flux.duration_seconds(metadata ->> 'power_stuck_after'), 600), 86400))
    WHERE flux.duration_seconds(metadata ->> 'power_stuck_after') IS NOT NULL
$$;
COMMENT ON FUNCTION flux.stuck_after(jsonb) IS
    'For how long a power must be bit-equal to count as stuck. metadata key power_stuck_after, e.g. "3h"; null: not checked; from 10 minutes to 24 hours.';

-- Whether values of a device are left out in this span.
CREATE OR REPLACE FUNCTION flux.rollup_marked(of_device uuid, lo timestamptz, hi timestamptz) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM flux.reading_marks m
                   WHERE m.device_id = of_device AND m.time >= lo AND m.time <= hi AND m.lifted_at IS NULL)
$$;
