-- The exact path: V(t) of one device over [lo, hi), reading by reading. The fast path (05) leaves to it every bucket in
-- which a counter fell, rose too far, was missing, or has a gap beside it.
-- (Rendered twice: …_marked leaves out values that are marked.)
--
--   readings of a counter   100 @ 11:58   102 @ 12:02   0 @ 12:03   103 @ 12:04
--   12:03 is a glitch (12:04 is back above 102), so V runs 100 → 102 → 103, and of the 2 kWh between 11:58 and 12:02
--   one half belongs to the bucket 11:55 and one half to 12:00.

-- How far around [lo, hi) the readings must be known, so that every reading in it is judged as it would be with all of
-- history at hand. A low reading is ignored for at most 3 readings or 5 minutes, so 5 full readings and 5 minutes are
-- enough. Null: not to be told by looking at full readings (some counter is missing in too many of them).
CREATE OR REPLACE FUNCTION flux.rollup_context_before%marked%(of_device uuid, at timestamptz, full_count integer, gap interval)
RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
DECLARE
    newest timestamptz;
    fifth  timestamptz;
    past   timestamptz;
BEGIN
    SELECT r.time INTO newest FROM flux.%readings% r
    WHERE r.device_id = of_device AND r.time < at AND r.time >= at - gap AND num_nonnulls(
@counter{, }        r.%m%
    ) = full_count ORDER BY r.time DESC LIMIT 1;
    IF newest IS NOT NULL THEN
        SELECT r.time INTO fifth FROM flux.%readings% r
        WHERE r.device_id = of_device AND r.time < newest AND r.time >= newest - gap AND num_nonnulls(
@counter{, }            r.%m%
        ) = full_count ORDER BY r.time DESC OFFSET 4 LIMIT 1;
        SELECT r.time INTO past FROM flux.%readings% r
        WHERE r.device_id = of_device AND r.time < newest - interval '5 minutes' AND r.time >= newest - gap AND num_nonnulls(
@counter{, }            r.%m%
        ) = full_count ORDER BY r.time DESC LIMIT 1;
        IF fifth IS NOT NULL AND past IS NOT NULL THEN
            RETURN least(fifth, past);
        END IF;
    END IF;
    -- near the beginning there may be so few readings that all of them will do
    RETURN (SELECT CASE WHEN count(*) < 50 THEN coalesce(min(b.time), at) END FROM (
        SELECT r.time FROM flux.%readings% r WHERE r.device_id = of_device AND r.time < at
        ORDER BY r.time DESC LIMIT 50) b);
END $$;

CREATE OR REPLACE FUNCTION flux.rollup_context_after%marked%(of_device uuid, at timestamptz, full_count integer, gap interval)
RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
DECLARE
    oldest timestamptz;
    fifth  timestamptz;
    past   timestamptz;
BEGIN
    SELECT r.time INTO oldest FROM flux.%readings% r
    WHERE r.device_id = of_device AND r.time >= at AND r.time < at + gap AND num_nonnulls(
@counter{, }        r.%m%
    ) = full_count ORDER BY r.time LIMIT 1;
    IF oldest IS NOT NULL THEN
        SELECT r.time INTO fifth FROM flux.%readings% r
        WHERE r.device_id = of_device AND r.time > oldest AND r.time <= oldest + gap AND num_nonnulls(
@counter{, }            r.%m%
        ) = full_count ORDER BY r.time OFFSET 4 LIMIT 1;
        SELECT r.time INTO past FROM flux.%readings% r
        WHERE r.device_id = of_device AND r.time > oldest + interval '5 minutes' AND r.time <= oldest + gap AND num_nonnulls(
@counter{, }            r.%m%
        ) = full_count ORDER BY r.time LIMIT 1;
        IF fifth IS NOT NULL AND past IS NOT NULL THEN
            RETURN greatest(fifth, past);
        END IF;
    END IF;
    RETURN (SELECT CASE WHEN count(*) < 50 THEN coalesce(max(a.time), at) END FROM (
        SELECT r.time FROM flux.%readings% r WHERE r.device_id = of_device AND r.time >= at
        ORDER BY r.time LIMIT 50) a);
END $$;

-- The same for one counter, where full readings do not tell: its own readings around [lo, hi). One that has no reading
-- in [lo, hi) nor within the gap limit before it has no part in it, and is not searched for, unless forced.
CREATE OR REPLACE FUNCTION flux.rollup_counter_around%marked%(
    of_device uuid, k integer, lo timestamptz, hi timestamptz, gap interval,
    forced boolean, want_before boolean, want_after boolean
) RETURNS TABLE (at_time timestamptz, value double precision) LANGUAGE plpgsql STABLE AS $$
DECLARE
    newest timestamptz;
    oldest timestamptz;
    near   bigint;
    needed boolean;
BEGIN
    SELECT r.time INTO newest FROM flux.%readings% r
    WHERE r.device_id = of_device AND r.time < lo AND r.time >= lo - gap AND (ARRAY[
@counter{, }        r.%m%
    ])[k] IS NOT NULL ORDER BY r.time DESC LIMIT 1;
    needed := forced OR EXISTS (
        SELECT FROM flux.%readings% r WHERE r.device_id = of_device AND r.time >= lo AND r.time < hi AND (ARRAY[
@counter{, }            r.%m%
        ])[k] IS NOT NULL);
    IF newest IS NULL AND needed THEN
        SELECT r.time INTO newest FROM flux.%readings% r
        WHERE r.device_id = of_device AND r.time < lo - gap AND (ARRAY[
@counter{, }            r.%m%
        ])[k] IS NOT NULL ORDER BY r.time DESC LIMIT 1;
    END IF;
    IF newest IS NULL AND NOT needed THEN
        RETURN;
    END IF;
    IF want_before THEN
        SELECT count(*) INTO near FROM flux.%readings% r
        WHERE r.device_id = of_device AND r.time <= newest AND r.time >= newest - interval '5 minutes' AND (ARRAY[
@counter{, }            r.%m%
        ])[k] IS NOT NULL;
        RETURN QUERY SELECT c.time, c.v FROM (
            SELECT r.time, (ARRAY[
@counter{, }                r.%m%
            ])[k] AS v FROM flux.%readings% r WHERE r.device_id = of_device AND r.time <= newest) c
        WHERE c.v IS NOT NULL ORDER BY c.time DESC LIMIT greatest(6, near + 1);
    END IF;
    IF want_after THEN
        SELECT r.time INTO oldest FROM flux.%readings% r
        WHERE r.device_id = of_device AND r.time >= hi AND (ARRAY[
@counter{, }            r.%m%
        ])[k] IS NOT NULL ORDER BY r.time LIMIT 1;
        SELECT count(*) INTO near FROM flux.%readings% r
        WHERE r.device_id = of_device AND r.time >= oldest AND r.time <= oldest + interval '5 minutes' AND (ARRAY[
@counter{, }            r.%m%
        ])[k] IS NOT NULL;
        RETURN QUERY SELECT c.time, c.v FROM (
            SELECT r.time, (ARRAY[
@counter{, }                r.%m%
            ])[k] AS v FROM flux.%readings% r WHERE r.device_id = of_device AND r.time >= oldest) c
        WHERE c.v IS NOT NULL ORDER BY c.time LIMIT greatest(6, near + 1);
    END IF;
END $$;

-- Computes [lo, hi) of one device exactly and writes deltas, minima, gaps and counter events. Where a fall reaches over
-- an edge it widens lo or hi (never beyond the cut); the caller gets back what was covered. The levels of the rows in
-- it are the fast path's and stay.
CREATE OR REPLACE FUNCTION flux.rollup_meter_exact%marked%(
    of_device uuid, INOUT lo timestamptz, INOUT hi timestamptz, forced boolean
) LANGUAGE plpgsql AS $$
DECLARE
    names      CONSTANT text[] := ARRAY[
@counter{, }        '%m%'
    ];
    n          CONSTANT integer := %counters%;
    -- times are counted in whole microseconds: exact in a double, so that limits are met or not, never nearly
    second     CONSTANT double precision := 1000000;
    bucket     CONSTANT double precision := 300 * second;
    known      text[];            -- counters that the device ever reported
    cut        timestamptz;
    gap        interval;
    gap_us     double precision;
    max_kw     double precision;
    energy     CONSTANT boolean[] := ARRAY[
@counter{, }        %is_energy%
    ];
    limit_per_us double precision;  -- what can be carried, kWh/µs
    carry      double precision;  -- the same for this counter; infinite: no limit
    ruled      boolean;           -- there are rulings of people on this device
    lifted     boolean;           -- … and marks that they lifted
    ruling     flux.counter_rulings;
    metadata   jsonb;
    width      double precision;
    before_at  timestamptz;
    after_at   timestamptz;
    times      timestamptz[];     -- readings, in order of time …
    us         double precision[];  -- … in microseconds after lo …
    vals       double precision[];  -- … and their counters [reading][counter]
    rows       integer;
    buckets    integer;
    span       double precision;
    delta      double precision[];  -- [(bucket - 1) * n + counter]
    low        double precision[];
    reach_lo   double precision;  -- what the falls that touch [lo, hi) need
    reach_hi   double precision;
    given_lo   CONSTANT timestamptz := lo;
    given_hi   CONSTANT timestamptz := hi;
    last_lo    timestamptz;
    last_hi    timestamptz;
    sure_from  timestamptz[];     -- by counter: between these, all gaps and events are known
    sure_upto  timestamptz[];
    gaps       flux.rollup_gaps[];
    events     flux.counter_events[];
    skipped    boolean;
    odd        boolean;           -- it fell, or rose by more than can be carried
    i          integer;
    j          integer;
    seen       integer;
    back       integer;
    decided    integer;
    slot       integer;
    slot_end   double precision;  -- where the bucket of the last good reading ends, once it is in [lo, hi)
    x_at       timestamptz;       -- the last good reading
    x_us        double precision;
    x_v        double precision;
    y_us        double precision;
    y_v        double precision;
    step       double precision;
    carried    double precision;
    kind       text;
    cut_us     double precision;  -- the cut, in microseconds after lo; null: there is none
    from_us    double precision;  -- where the part of a line begins that is not in rows before the cut
    held       double precision;  -- what the lines up to the cut counted in the bucket before it
BEGIN
    SELECT d.counters, flux.rollup_first_open_hour(d.cut), flux.gap_limit_seconds(r.metadata) * second,
           coalesce(flux.positive_number(r.metadata -> 'max_power_kw'), 'Infinity'), r.metadata, coalesce(flux.carried_per_second(r.metadata) / second, 'Infinity'),
           EXISTS (SELECT FROM flux.counter_rulings u WHERE u.device_id = of_device),
           EXISTS (SELECT FROM flux.reading_marks m WHERE m.device_id = of_device AND m.lifted_at IS NOT NULL)
    INTO known, cut, gap_us, max_kw, metadata, limit_per_us, ruled, lifted
    FROM flux.rollup_devices d JOIN flux.mg_device_registry r ON r.id = d.device_id WHERE d.device_id = of_device;
    gap := make_interval(secs => gap_us / second);

    LOOP
        -- ── what to read ──
        before_at := flux.rollup_context_before%marked%(of_device, lo, cardinality(known), gap);
        after_at := flux.rollup_context_after%marked%(of_device, hi, cardinality(known), gap);
        SELECT array_agg(x.time ORDER BY x.time), array_agg(round(date_part('epoch', x.time - lo) * second) ORDER BY x.time),
               array_agg(x.v ORDER BY x.time)
        INTO times, us, vals
        FROM (
            SELECT r.time, ARRAY[
@counter{, }                r.%m%
            ] AS v FROM flux.%readings% r
            WHERE r.device_id = of_device AND r.time >= coalesce(before_at, lo)
                AND r.time <= coalesce(after_at, hi - interval '1 microsecond')
            UNION ALL
            SELECT f.at_time, array_fill(NULL::double precision, ARRAY[c.k - 1]) || f.value || array_fill(NULL::double precision, ARRAY[n - c.k])
            FROM generate_series(1, n) c(k)
            CROSS JOIN LATERAL flux.rollup_counter_around%marked%(
                of_device, c.k, lo, hi, gap, forced, before_at IS NULL, after_at IS NULL) f
            WHERE (before_at IS NULL OR after_at IS NULL) AND names[c.k] = ANY (known)
        ) x;
        rows := coalesce(cardinality(times), 0);
        span := round(date_part('epoch', hi - lo) * second);
        buckets := (span / bucket)::integer;
        cut_us := round(date_part('epoch', cut - lo) * second);
        delta := array_fill(NULL::double precision, ARRAY[buckets * n]);
        low := delta;
        reach_lo := 0;
        reach_hi := span;
        gaps := '{}';
        events := '{}';
        sure_from := array_fill('-infinity'::timestamptz, ARRAY[n]);
        sure_upto := array_fill('infinity'::timestamptz, ARRAY[n]);

        -- ── V(t), counter by counter ──
        FOR k IN 1 .. n LOOP
            x_at := NULL;
            slot_end := NULL;
            held := 0;
            carry := CASE WHEN energy[k] THEN limit_per_us ELSE 'Infinity' END;
            skipped := true;  -- no reading of it before, in or after that says anything of [lo, hi)
            i := 1;
            WHILE i <= rows LOOP
                y_v := vals[i][k];
                IF y_v IS NULL THEN
                    i := i + 1;
                    CONTINUE;
                END IF;
                y_us := us[i];
                IF y_us < slot_end AND y_v >= x_v AND y_v - x_v <= carry * (y_us - x_us + 60 * second) THEN  -- the common case: on in the bucket of the last good one
                    delta[slot] := delta[slot] + (y_v - x_v);
                    x_at := times[i];
                    x_us := y_us;
                    x_v := y_v;
                    i := i + 1;
                    CONTINUE;
                END IF;
                odd := x_at IS NOT NULL AND (y_v < x_v OR y_v - x_v > carry * (y_us - x_us + 60 * second));
                IF y_us < 0 AND NOT odd THEN  -- before [lo, hi) only the last good reading matters
                    IF y_us > cut_us - bucket AND y_us <= cut_us AND y_us - x_us <= gap_us THEN
                        held := held + (y_v - x_v) * ((y_us - greatest(x_us, cut_us - bucket)) / (y_us - x_us));
                    END IF;
                    x_at := times[i];
                    x_us := y_us;
                    x_v := y_v;
                    i := i + 1;
                    CONTINUE;
                END IF;
                IF odd AND ruled THEN
                    SELECT u.* INTO ruling FROM flux.counter_rulings u
                    WHERE u.device_id = of_device AND u.counter = names[k] AND u.time = times[i];
                END IF;
                IF NOT odd THEN
                    step := y_v - x_v;
                ELSIF y_v > x_v THEN
                    -- a rise that cannot have been carried counts nothing, unless somebody says that it is true
                    kind := 'jump';
                    step := CASE WHEN ruling.kind = 'rise' THEN y_v - x_v WHEN ruling.kind = 'step' THEN ruling.step ELSE 0 END;
                    IF lifted AND ruling.kind IS NULL AND EXISTS (
                        SELECT FROM flux.reading_marks m WHERE m.device_id = of_device AND m.time = times[i]
                            AND m.metric = names[k] AND m.lifted_at IS NOT NULL AND m.value = y_v) THEN
                        step := y_v - x_v;
                    ELSIF y_us >= 0 AND x_us < span THEN
                        events := events || (of_device, names[k], times[i], kind, y_v, x_at, x_v, step, times[i], ruling.kind, false)::flux.counter_events;
                        reach_lo := least(reach_lo, x_us);
                        reach_hi := greatest(reach_hi, y_us);
                    END IF;
                ELSIF ruling.kind <> 'as_judged' THEN
                    width := flux.counter_width(metadata, names[k]);
                    CASE ruling.kind
                        WHEN 'restart' THEN kind := 'restart'; step := y_v;
                        -- (asked first, as greatest() passes over a null: of a width that nobody knows nothing is counted)
                        WHEN 'rollover' THEN kind := 'rollover'; step := CASE WHEN width IS NULL THEN 0 ELSE greatest(width - x_v, 0) + y_v END;
                        WHEN 'step' THEN kind := 'correction'; step := ruling.step;
                        ELSE kind := 'correction'; step := 0;
                    END CASE;
                    IF y_us >= 0 AND x_us < span THEN
                        events := events || (of_device, names[k], times[i], kind, y_v, x_at, x_v, step, times[i], ruling.kind, false)::flux.counter_events;
                        reach_lo := least(reach_lo, x_us);
                        reach_hi := greatest(reach_hi, y_us);
                    END IF;
                ELSE
                    -- a fall: back within 3 readings or 5 minutes, whichever is longer, but at most 2 hours?
                    seen := 0;
                    back := NULL;
                    decided := NULL;
                    j := i + 1;
                    WHILE j <= rows LOOP
                        IF vals[j][k] IS NOT NULL THEN
                            seen := seen + 1;
                            IF us[j] > y_us + 7200 * second OR (seen > 3 AND us[j] > y_us + 300 * second) THEN
                                decided := j;
                                EXIT;
                            ELSIF vals[j][k] >= x_v THEN
                                back := j;
                                EXIT;
                            END IF;
                        END IF;
                        j := j + 1;
                    END LOOP;
                    IF back IS NULL AND decided IS NULL THEN  -- the readings end here: V stays flat until it is decided
                        IF x_us < span THEN
                            skipped := false;
                            events := events || (of_device, names[k], times[i], 'undecided', y_v, x_at, x_v, NULL, NULL, ruling.kind, false)::flux.counter_events;
                            reach_lo := least(reach_lo, x_us);
                            reach_hi := greatest(reach_hi, us[rows]);
                        END IF;
                        EXIT;
                    END IF;
                    IF back IS NOT NULL THEN
                        IF us[back] >= 0 AND x_us < span THEN
                            events := events || (of_device, names[k], times[i], 'glitch', y_v, x_at, x_v, NULL, times[back], ruling.kind, false)::flux.counter_events;
                            reach_lo := least(reach_lo, x_us);
                            reach_hi := greatest(reach_hi, us[back]);
                        END IF;
                        i := back;
                        CONTINUE;
                    END IF;
                    carried := max_kw * (y_us - x_us) / (3600 * second);
                    width := flux.counter_width(metadata, names[k]);
                    SELECT f.kind, f.step INTO kind, step FROM flux.judged_fall(x_v, y_v, width, carried) f;
                    IF y_us >= 0 AND x_us < span THEN
                        events := events || (of_device, names[k], times[i], kind, y_v, x_at, x_v, step, times[decided], ruling.kind, false)::flux.counter_events;
                        reach_lo := least(reach_lo, x_us);
                        reach_hi := greatest(reach_hi, y_us);
                    END IF;
                END IF;

                -- the line from x to y
                IF odd AND y_us < 0 AND y_us > cut_us - bucket AND y_us <= cut_us AND y_us - x_us <= gap_us THEN
                    held := held + step * ((y_us - greatest(x_us, cut_us - bucket)) / (y_us - x_us));
                END IF;
                IF x_at IS NOT NULL AND y_us >= 0 AND x_us < span THEN
                    IF sure_from[k] = '-infinity' AND x_us < 0 THEN
                        sure_from[k] := x_at;
                    END IF;
                    skipped := false;
                    from_us := x_us;
                    IF x_us < cut_us AND y_us >= cut_us THEN
                        -- what rows before the cut have of it, they keep, whatever is known by now; the rest is ours
                        from_us := cut_us;
                        step := step - flux.rollup_settled(of_device, names[k], cut, (cut_us - x_us) / second, held,
                            CASE WHEN y_us - x_us <= gap_us THEN step * ((cut_us - x_us) / (y_us - x_us)) ELSE 0 END);
                        IF y_us = cut_us AND y_us < span AND abs(step) > 1e-9 AND y_us - x_us <= gap_us THEN
                            delta[floor(y_us / bucket)::integer * n + k] := step;
                        END IF;
                    END IF;
                    IF y_us - x_us > gap_us THEN
                        gaps := gaps || (of_device, names[k], x_at, times[i], step)::flux.rollup_gaps;
                    ELSE
                        FOR b IN greatest(floor(from_us / bucket)::integer, 0) .. least(ceil(y_us / bucket)::integer, buckets) - 1 LOOP
                            slot := b * n + k;
                            delta[slot] := coalesce(delta[slot], 0)
                                + step * ((least(y_us, (b + 1) * bucket) - greatest(from_us, b * bucket)) / (y_us - from_us));
                        END LOOP;
                    END IF;
                END IF;
                IF y_us >= 0 AND y_us < span THEN
                    slot := floor(y_us / bucket)::integer * n + k;
                    delta[slot] := coalesce(delta[slot], 0);
                    low[slot] := least(low[slot], y_v);
                    slot_end := (floor(y_us / bucket) + 1) * bucket;
                    skipped := false;
                END IF;
                x_at := times[i];
                x_us := y_us;
                x_v := y_v;
                IF x_us >= span THEN
                    sure_upto[k] := x_at;
                    EXIT;
                END IF;
                i := i + 1;
            END LOOP;
            IF x_us < 0 AND x_at IS NOT NULL AND sure_from[k] = '-infinity' THEN
                sure_from[k] := x_at;  -- nothing good after it
            END IF;
            IF skipped AND NOT (forced AND names[k] = ANY (known)) THEN
                sure_upto[k] := '-infinity';  -- nothing was learnt of it: what is listed stays
            END IF;
        END LOOP;

        last_lo := lo;
        last_hi := hi;
        hi := greatest(hi, lo + make_interval(secs => 300 * (floor(reach_hi / bucket) + (reach_hi > span)::integer)));
        lo := greatest(lo + make_interval(secs => 300 * floor(reach_lo / bucket)), least(lo, coalesce(cut, '-infinity')));
        EXIT WHEN lo = last_lo AND hi = last_hi;
    END LOOP;

    -- ── write ──
    IF lo < given_lo OR hi > given_hi THEN  -- (for what was asked for they are there)
        PERFORM flux.ensure_rollup_partitions('meter', ARRAY[(of_device, lo, hi, false)::flux.rollup_range]);
    END IF;
    DELETE FROM flux.mg_meter_readings_5m_intermediate t
    WHERE t.device_id = of_device AND t.time_b >= lo AND t.time_b < hi AND t.samples = 0;
    INSERT INTO flux.mg_meter_readings_5m_intermediate (
@counter        %m%_min, %m%_delta,
        device_id, time_b, samples, irregular)
    SELECT
@counter        NULL, delta[b * n + %k%],
        of_device, lo + b * interval '5 minutes', 0, true
    FROM generate_series(0, buckets - 1) b
    WHERE num_nonnulls(
@counter{, }        delta[b * n + %k%]
    ) > 0
    ON CONFLICT DO NOTHING;
    UPDATE flux.mg_meter_readings_5m_intermediate t SET
@counter        %m%_min = low[b * n + %k%], %m%_delta = delta[b * n + %k%],
        irregular = true
    FROM generate_series(0, buckets - 1) b
    WHERE t.device_id = of_device AND t.time_b = lo + b * interval '5 minutes' AND t.samples > 0;

    DELETE FROM flux.rollup_gaps g USING generate_series(1, n) k
    WHERE g.device_id = of_device AND g.counter = names[k] AND g.from_time < sure_upto[k] AND g.to_time > sure_from[k];
    INSERT INTO flux.rollup_gaps SELECT * FROM unnest(gaps);
    DELETE FROM flux.counter_events e USING generate_series(1, n) k
    WHERE e.device_id = of_device AND e.counter = names[k] AND e.time > sure_from[k] AND e.time <= sure_upto[k];
    INSERT INTO flux.counter_events (device_id, counter, time, kind, value, good_time, good_value, step, until, ruling)
    SELECT e.device_id, e.counter, e.time, e.kind, e.value, e.good_time, e.good_value, e.step, e.until, e.ruling FROM unnest(events) e;
END $$;
