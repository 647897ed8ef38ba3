-- Noting what changed. Statement-level triggers with transition tables fire for INSERT, COPY, UPDATE and DELETE on the
-- partitioned tables; what fires none of them (a partition attached by hand) calls flux.note_rollup_change.
-- They run as their owner: who may write readings need not be able to write notes.

-- (The ingest lays such a reading aside, in rejected_readings; this is for what comes by another way, or at the moment at
-- which retention drops its week.)
CREATE OR REPLACE FUNCTION flux.refuse_before_cut(of_device uuid, at timestamptz, cut timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' AS $$
BEGIN
    RAISE EXCEPTION 'time % is before %: the readings of then of device % were dropped, and no rollup would follow', at, cut, of_device
        USING ERRCODE = 'check_violation';
END $$;
COMMENT ON FUNCTION flux.refuse_before_cut(uuid, timestamptz, timestamptz) IS 'Refuses a reading from before what retention has dropped.';

CREATE OR REPLACE FUNCTION flux.note_added_readings() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    too_old record;
BEGIN
    -- by the hour, so that one late reading in a batch does not make everything since then look changed
    WITH noted AS (
        INSERT INTO flux.rollup_changes (device_id, source, from_time, to_time)
        SELECT n.device_id, tg_argv[0], min(n.time), max(n.time)
        FROM new_readings n GROUP BY n.device_id, date_bin('1 hour', n.time, %epoch%)
        RETURNING device_id, from_time
    )
    SELECT n.device_id, n.from_time, d.cut INTO too_old
    FROM noted n JOIN flux.rollup_devices d ON d.device_id = n.device_id WHERE n.from_time < d.cut LIMIT 1;
    IF FOUND THEN
        PERFORM flux.refuse_before_cut(too_old.device_id, too_old.from_time, too_old.cut);
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION flux.note_removed_readings() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO flux.rollup_changes (device_id, source, from_time, to_time, removed)
    SELECT o.device_id, tg_argv[0], min(o.time), max(o.time), true
    FROM old_readings o GROUP BY o.device_id, date_bin('1 hour', o.time, %epoch%);
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION flux.note_changed_readings() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    too_old record;
BEGIN
    WITH noted AS (
        INSERT INTO flux.rollup_changes (device_id, source, from_time, to_time, removed)
        SELECT c.device_id, tg_argv[0], min(c.time), max(c.time), true
        FROM (SELECT device_id, time FROM old_readings UNION ALL SELECT device_id, time FROM new_readings) c
        GROUP BY c.device_id, date_bin('1 hour', c.time, %epoch%)
        RETURNING device_id, from_time
    )
    SELECT n.device_id, n.from_time, d.cut INTO too_old
    FROM noted n JOIN flux.rollup_devices d ON d.device_id = n.device_id WHERE n.from_time < d.cut LIMIT 1;
    IF FOUND THEN
        PERFORM flux.refuse_before_cut(too_old.device_id, too_old.from_time, too_old.cut);
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION flux.note_rollup_change(
    changed_device uuid, changed_from timestamptz DEFAULT NULL, changed_to timestamptz DEFAULT NULL
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO flux.rollup_changes (device_id, source, from_time, to_time, removed)
    SELECT r.id, r.type, greatest(s.first, changed_from), least(s.last, changed_to), true
    FROM flux.mg_device_registry r CROSS JOIN LATERAL (
        -- as far as there are readings, or rollups of readings that went
        SELECT min(x.first) AS first, max(x.last) AS last FROM (
            SELECT min(m.time), max(m.time) FROM flux.rollup_meter_readings m WHERE m.device_id = r.id AND r.type = 'meter'
            UNION ALL
            SELECT min(m.time_b), max(m.time_b) + interval '299.999999 seconds'
            FROM flux.mg_meter_readings_5m_intermediate m WHERE m.device_id = r.id AND r.type = 'meter'
            UNION ALL
            SELECT min(b.time), max(b.time) FROM flux.mg_bess_readings b WHERE b.device_id = r.id AND r.type = 'bess'
            UNION ALL
            SELECT min(b.time_b), max(b.time_b) + interval '299.999999 seconds'
            FROM flux.mg_bess_readings_5m b WHERE b.device_id = r.id AND r.type = 'bess'
            UNION ALL
            SELECT min(m.time_b), max(m.time_b) + interval '299.999999 seconds'
            FROM flux.storage_meters(r.site) k JOIN flux.mg_meter_readings_5m_intermediate m ON m.device_id = k.meter
            WHERE k.bess = r.id AND r.type = 'bess'
        ) x(first, last)
    ) s
    -- (greatest and least pass over nulls: where there is nothing, nothing can have changed)
    WHERE r.id = changed_device AND s.first IS NOT NULL AND greatest(s.first, changed_from) <= least(s.last, changed_to);
END $$;
COMMENT ON FUNCTION flux.note_rollup_change(uuid, timestamptz, timestamptz) IS
    'Have the next refresh compute the rollups of a device anew, from … to (null: from its beginning, to its end).';

CREATE OR REPLACE FUNCTION flux.note_truncated_readings() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM flux.note_rollup_change(r.id) FROM flux.mg_device_registry r WHERE r.type = tg_argv[0];
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION flux.refuse_plain_delete() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('flux.deleting', true) IS DISTINCT FROM 'on' THEN
        RAISE EXCEPTION 'rollups would not follow: use SELECT flux.delete_readings(device_id, from_time, to_time)'
            USING ERRCODE = 'feature_not_supported';
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION flux.delete_readings(of_device uuid, from_time timestamptz, to_time timestamptz) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kind text := (SELECT r.type FROM flux.mg_device_registry r WHERE r.id = of_device);
    gone bigint;
BEGIN
    IF kind IS NULL THEN
        RAISE EXCEPTION 'no device has the id %', of_device USING ERRCODE = 'no_data_found';
    END IF;
    IF (SELECT s.engine FROM flux.storage s) = 'hypertable' THEN
        PERFORM flux.note_rollup_change(of_device, from_time, to_time);
        PERFORM set_config('flux.deleting', 'on', true);
    END IF;
    IF kind = 'meter' THEN
        DELETE FROM flux.mg_meter_readings r WHERE r.device_id = of_device AND r.time >= from_time AND r.time < to_time;
    ELSE
        DELETE FROM flux.mg_bess_readings r WHERE r.device_id = of_device AND r.time >= from_time AND r.time < to_time;
    END IF;
    GET DIAGNOSTICS gone = ROW_COUNT;
    PERFORM set_config('flux.deleting', '', true);
    RETURN gone;
END $$;
COMMENT ON FUNCTION flux.delete_readings(uuid, timestamptz, timestamptz) IS
    'Deletes the readings of a device, from_time ≤ time < to_time, on any engine; the rollups follow. Returns how many.';

CREATE OR REPLACE TRIGGER note_added AFTER INSERT ON flux.mg_meter_readings
    REFERENCING NEW TABLE AS new_readings FOR EACH STATEMENT EXECUTE FUNCTION flux.note_added_readings('meter');
CREATE OR REPLACE TRIGGER note_changed AFTER UPDATE ON flux.mg_meter_readings
    REFERENCING OLD TABLE AS old_readings NEW TABLE AS new_readings
    FOR EACH STATEMENT EXECUTE FUNCTION flux.note_changed_readings('meter');
CREATE OR REPLACE TRIGGER note_truncated BEFORE TRUNCATE ON flux.mg_meter_readings
    FOR EACH STATEMENT EXECUTE FUNCTION flux.note_truncated_readings('meter');

CREATE OR REPLACE TRIGGER note_added AFTER INSERT ON flux.mg_bess_readings
    REFERENCING NEW TABLE AS new_readings FOR EACH STATEMENT EXECUTE FUNCTION flux.note_added_readings('bess');
CREATE OR REPLACE TRIGGER note_changed AFTER UPDATE ON flux.mg_bess_readings
    REFERENCING OLD TABLE AS old_readings NEW TABLE AS new_readings
    FOR EACH STATEMENT EXECUTE FUNCTION flux.note_changed_readings('bess');
CREATE OR REPLACE TRIGGER note_truncated BEFORE TRUNCATE ON flux.mg_bess_readings
    FOR EACH STATEMENT EXECUTE FUNCTION flux.note_truncated_readings('bess');

-- The rows of a rollup may fall in a month that has no partition yet: always in one order, so that refreshes wait in turn.
CREATE OR REPLACE FUNCTION flux.ensure_rollup_partitions(kind text, spans flux.rollup_range[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    missing record;
BEGIN
    FOR missing IN
        SELECT format('flux.%I', s.table_name)::regclass AS parent, m.at AT TIME ZONE 'UTC' AS at
        FROM (SELECT DISTINCT generate_series(date_trunc('month', x.lo AT TIME ZONE 'UTC'), x.hi AT TIME ZONE 'UTC', '1 month') AS at
              FROM unnest(spans) x) m
        JOIN flux.time_series s ON s.engine = 'partitions' AND s.made_from IS NOT NULL AND s.table_name LIKE 'mg_' || kind || '_%'
        WHERE to_regclass(format('flux.%I', flux.partition_name(s.table_name, s.step, m.at AT TIME ZONE 'UTC'))) IS NULL
        ORDER BY s.table_name, m.at
    LOOP
        PERFORM flux.ensure_partitions(missing.parent, missing.at, missing.at);
    END LOOP;
END $$;

-- ── What a device's metadata says of its counters ──────────────────────────────────────────────────────────────────

-- Whatever stands there, these answer: a device with nonsense in its metadata must not stop the refresh of the others.

-- (Those that are asked of each device and find nothing written cost nothing: the ones without a SET clause become part of
-- the statement that asks, the strict ones are not called for null.)

CREATE OR REPLACE FUNCTION flux.duration_seconds(written text) RETURNS double precision
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $$
    SELECT CASE WHEN g.written ~ '^([0-9]{1,9}(\.[0-9]{1,9})?(ms|s|m|h|d)){1,9}$' THEN (
               SELECT sum(part[1]::double precision * CASE part[2]
                          WHEN 'ms' THEN 0.001 WHEN 's' THEN 1 WHEN 'm' THEN 60 WHEN 'h' THEN 3600 ELSE 86400 END)
               FROM regexp_matches(g.written, '([0-9.]+)(ms|s|m|h|d)', 'g') part) END
    FROM (SELECT lower(replace(written, ' ', ''))) g(written)
$$;
COMMENT ON FUNCTION flux.duration_seconds(text) IS 'A duration as people write it, e.g. 90s, 1h30m; null: it is none.';

CREATE OR REPLACE FUNCTION flux.gap_limit_seconds(metadata jsonb) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT least(greatest(coalesce(flux.duration_seconds(metadata ->> 'gap_limit'), 86400), 600), 31622400)
$$;
COMMENT ON FUNCTION flux.gap_limit_seconds(jsonb) IS
    'Readings further apart than this split the series. metadata key gap_limit, e.g. "36h"; 24 h where there is none or it cannot be read; at least 10 minutes, at most 366 days.';

CREATE OR REPLACE FUNCTION flux.positive_number(value jsonb) RETURNS double precision
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $$
    SELECT CASE WHEN jsonb_typeof(value) = 'number' THEN
               CASE WHEN (value #>> '{}')::numeric BETWEEN 1e-15 AND 1e15 THEN (value #>> '{}')::double precision END END
$$;
COMMENT ON FUNCTION flux.positive_number(jsonb) IS 'A number from metadata; null: it is none, or one that cannot be meant.';

CREATE OR REPLACE FUNCTION flux.template_of(metadata jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(metadata ->> 'register_map', metadata ->> 'template')
$$;

CREATE OR REPLACE FUNCTION flux.transformer_factor(metadata jsonb, ratio text) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    SELECT CASE WHEN ratio IN ('vt', 'vt_ct') THEN coalesce(flux.positive_number(metadata -> 'vt_ratio'), 1) ELSE 1 END
         * CASE WHEN ratio IN ('ct', 'vt_ct') THEN coalesce(flux.positive_number(metadata -> 'ct_ratio'), 1) ELSE 1 END
$$;

CREATE OR REPLACE FUNCTION flux.counter_width(metadata jsonb, counter text) RETURNS double precision
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    SELECT coalesce(flux.positive_number(metadata #> ARRAY['counter_widths', counter]),
                    flux.positive_number(metadata -> 'counter_width'),
                    (SELECT t.width * coalesce(flux.transformer_factor(metadata, t.ratio), 1) FROM flux.template_metrics t
                     WHERE t.template = flux.template_of(metadata) AND t.metric = counter))
$$;
COMMENT ON FUNCTION flux.counter_width(jsonb, text) IS
    'Where a counter begins again at 0, in its own unit: metadata counter_widths {name: value}, or counter_width for all; else what the register of its template can hold; null: not known.';

CREATE OR REPLACE FUNCTION flux.carried_per_second(metadata jsonb) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT 1.1 * flux.positive_number(metadata -> 'max_power_kw') / 3600
$$;
COMMENT ON FUNCTION flux.carried_per_second(jsonb) IS
    'A step beyond this × (seconds since the last good reading + 60) is not plausible: max_power_kw and a tenth; the minute is for clocks and coarse registers. kWh; null: no limit is known.';

CREATE OR REPLACE FUNCTION flux.judged_fall(
    good double precision, value double precision, width double precision, carried double precision,
    OUT kind text, OUT step double precision
) LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    SELECT CASE WHEN good <= width AND width - good + value <= least(width / 10, carried) THEN 'rollover'
                WHEN value <= good / 2 AND value <= carried THEN 'restart'
                ELSE 'correction' END,
           CASE WHEN good <= width AND width - good + value <= least(width / 10, carried) THEN width - good + value
                WHEN value <= good / 2 AND value <= carried THEN value
                ELSE 0 END
$$;
COMMENT ON FUNCTION flux.judged_fall(double precision, double precision, double precision, double precision) IS
    'What a fall from good to value is taken for when it stays, and what is counted. carried: the most that can have flowed meanwhile.';

CREATE OR REPLACE FUNCTION flux.rollup_limits(metadata jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    SELECT jsonb_object_agg(e.key, e.value) FROM jsonb_each(metadata) e WHERE e.key IN (
        'gap_limit', 'hold_limit', 'counter_width', 'counter_widths', 'max_power_kw', 'power_stuck_after',
        'register_map', 'template', 'vt_ratio', 'ct_ratio', 'invert')
$$;
COMMENT ON FUNCTION flux.rollup_limits(jsonb) IS 'The part of a device''s metadata that its rollups depend on.';

CREATE OR REPLACE FUNCTION flux.meters_batteries(type text, state text, metadata jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    SELECT CASE WHEN type = 'bess' OR metadata ->> 'meter_type' = 'storage'
                THEN concat_ws(' ', type, state = 'decommissioned', metadata ->> 'storage_of') END
$$;
COMMENT ON FUNCTION flux.meters_batteries(text, text, jsonb) IS
    'What of a device decides which meter is a battery''s own; null: nothing. When it changes, so do the battery''s rollups.';

CREATE OR REPLACE FUNCTION flux.note_registry_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF tg_op = 'INSERT' THEN
        INSERT INTO flux.rollup_devices (device_id) SELECT n.id FROM new_devices n ON CONFLICT DO NOTHING;
        PERFORM flux.note_rollup_change(b.id) FROM flux.mg_device_registry b
        WHERE b.type = 'bess' AND b.site IN (SELECT n.site FROM new_devices n WHERE flux.meters_batteries(n.type, n.state, n.metadata) IS NOT NULL);
    ELSE  -- changed limits change what falls and gaps are taken for
        PERFORM flux.note_rollup_change(n.id)
        FROM new_devices n JOIN old_devices o ON o.id = n.id
        WHERE flux.rollup_limits(n.metadata) IS DISTINCT FROM flux.rollup_limits(o.metadata);
        PERFORM flux.note_rollup_change(b.id) FROM flux.mg_device_registry b
        WHERE b.type = 'bess' AND b.site IN (
            SELECT unnest(ARRAY[n.site, o.site]) FROM new_devices n JOIN old_devices o ON o.id = n.id
            WHERE (n.site, flux.meters_batteries(n.type, n.state, n.metadata))
                IS DISTINCT FROM (o.site, flux.meters_batteries(o.type, o.state, o.metadata)));
    END IF;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER rollup_device AFTER INSERT ON flux.mg_device_registry
    REFERENCING NEW TABLE AS new_devices FOR EACH STATEMENT EXECUTE FUNCTION flux.note_registry_change();
CREATE OR REPLACE TRIGGER rollup_limits AFTER UPDATE ON flux.mg_device_registry
    REFERENCING OLD TABLE AS old_devices NEW TABLE AS new_devices
    FOR EACH STATEMENT EXECUTE FUNCTION flux.note_registry_change();

-- What a template says, marks that a person set or lifted, and rulings change the rollups, too.

CREATE OR REPLACE FUNCTION flux.note_template_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM flux.note_rollup_change(g.id) FROM flux.mg_device_registry g
    WHERE flux.template_of(g.metadata) IN (SELECT c.template FROM changed_metrics c);
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER note_added AFTER INSERT ON flux.template_metrics
    REFERENCING NEW TABLE AS changed_metrics FOR EACH STATEMENT EXECUTE FUNCTION flux.note_template_change();
CREATE OR REPLACE TRIGGER note_changed AFTER UPDATE ON flux.template_metrics
    REFERENCING NEW TABLE AS changed_metrics FOR EACH STATEMENT EXECUTE FUNCTION flux.note_template_change();
CREATE OR REPLACE TRIGGER note_removed AFTER DELETE ON flux.template_metrics
    REFERENCING OLD TABLE AS changed_metrics FOR EACH STATEMENT EXECUTE FUNCTION flux.note_template_change();

CREATE OR REPLACE FUNCTION flux.note_judgement() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF tg_op <> 'INSERT' THEN
        PERFORM flux.note_rollup_change(old.device_id, old.time, old.time);
    END IF;
    IF tg_op <> 'DELETE' THEN
        PERFORM flux.note_rollup_change(new.device_id, new.time, new.time);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION flux.note_judgement() IS 'What a person marked, lifted or ruled is computed anew. What the engine marks, it has in hand.';
CREATE OR REPLACE TRIGGER note_set AFTER INSERT ON flux.reading_marks
    FOR EACH ROW WHEN (new.reason = 'operator') EXECUTE FUNCTION flux.note_judgement();
CREATE OR REPLACE TRIGGER note_lifted AFTER UPDATE ON flux.reading_marks
    FOR EACH ROW WHEN (old.lifted_at IS DISTINCT FROM new.lifted_at OR new.reason = 'operator') EXECUTE FUNCTION flux.note_judgement();
CREATE OR REPLACE TRIGGER note_removed AFTER DELETE ON flux.reading_marks
    FOR EACH ROW WHEN (old.reason = 'operator' OR old.lifted_at IS NOT NULL) EXECUTE FUNCTION flux.note_judgement();
CREATE OR REPLACE TRIGGER note_ruling AFTER INSERT OR UPDATE OR DELETE ON flux.counter_rulings
    FOR EACH ROW EXECUTE FUNCTION flux.note_judgement();

-- devices and readings that were there before the engine
DO $do$
BEGIN
    INSERT INTO flux.rollup_devices (device_id) SELECT r.id FROM flux.mg_device_registry r ON CONFLICT DO NOTHING;
END $do$;
