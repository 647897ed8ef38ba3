-- Retention. A piece (a partition, a chunk) goes when all of it is older than its table's `keep`, and when nothing needs
-- it any more: raw readings when their rollups are final, a level of the rollups when what it is made from has gone.

CREATE OR REPLACE FUNCTION flux.pieces(of_table text)
RETURNS TABLE (piece regclass, from_time timestamptz, to_time timestamptz, bytes bigint, compressed boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog SET DateStyle = 'ISO' AS $$
DECLARE
    kept CONSTANT text := (SELECT s.engine FROM flux.time_series s WHERE s.table_name = of_table);
BEGIN
    IF kept = 'partitions' THEN
        RETURN QUERY
        SELECT c.oid::regclass, b.bound[1]::timestamptz, b.bound[2]::timestamptz, pg_total_relation_size(c.oid), false
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        CROSS JOIN LATERAL regexp_match(pg_get_expr(c.relpartbound, c.oid), $re$FROM \('([^']+)'\) TO \('([^']+)'\)$re$) b(bound)
        WHERE i.inhparent = format('flux.%I', of_table)::regclass AND NOT i.inhdetachpending AND c.relname NOT LIKE '%\_retired'
        ORDER BY 2;
    ELSIF kept = 'hypertable' THEN
        RETURN QUERY EXECUTE format(
            'SELECT format(''%%I.%%I'', c.chunk_schema, c.chunk_name)::regclass, c.range_start, c.range_end, s.total_bytes, c.is_compressed
             FROM timescaledb_information.chunks c JOIN %s($1::regclass) s USING (chunk_schema, chunk_name)
             WHERE c.hypertable_schema = ''flux'' AND c.hypertable_name = $2 ORDER BY 2', flux.timescale('chunks_detailed_size'))
        USING format('flux.%I', of_table), of_table;
    END IF;
END $$;
COMMENT ON FUNCTION flux.pieces(text) IS 'The pieces that a time series is kept in, oldest first: from_time ≤ time < to_time.';

CREATE OR REPLACE FUNCTION flux.devices_in(of_table text, from_time timestamptz, to_time timestamptz) RETURNS uuid[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE
    found uuid[];
BEGIN
    EXECUTE format('SELECT coalesce(array_agg(d.id), ''{}'') FROM flux.mg_device_registry d
                    WHERE EXISTS (SELECT FROM flux.%I t WHERE t.device_id = d.id AND t.time >= $1 AND t.time < $2)', of_table)
    INTO found USING from_time, to_time;
    RETURN found;
END $$;
COMMENT ON FUNCTION flux.devices_in(text, timestamptz, timestamptz) IS 'The devices that have readings in a span.';

CREATE OR REPLACE FUNCTION flux.held_by(of_table text, piece_start timestamptz, piece_end timestamptz, as_of timestamptz DEFAULT now())
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE
    source  CONSTANT text := (SELECT s.made_from FROM flux.time_series s WHERE s.table_name = of_table);
    oldest  timestamptz;
    waiting bigint;
    example text;
BEGIN
    IF source IS NOT NULL THEN
        SELECT min(p.from_time) INTO oldest FROM flux.pieces(source) p WHERE p.from_time < piece_end;
        IF oldest IS NOT NULL THEN
            RETURN format('%s is still there from %s on', source, to_char(oldest AT TIME ZONE 'UTC', 'YYYY-MM-DD'));
        END IF;
    END IF;
    IF of_table NOT IN ('mg_meter_readings', 'mg_bess_readings') THEN
        RETURN NULL;
    END IF;
    SELECT min(r.name) INTO example
    FROM unnest(flux.devices_in(of_table, piece_start, piece_end)) u(id)
    JOIN flux.mg_device_registry r ON r.id = u.id AND r.state = 'decommissioned'
    WHERE NOT EXISTS (
        SELECT FROM flux.device_archives a WHERE a.device_id = r.id AND a.to_time >= CASE of_table
            WHEN 'mg_meter_readings' THEN (SELECT max(m.time) FROM flux.mg_meter_readings m WHERE m.device_id = r.id AND m.time < piece_end)
            ELSE (SELECT max(b.time) FROM flux.mg_bess_readings b WHERE b.device_id = r.id AND b.time < piece_end) END);
    IF example IS NOT NULL THEN
        RETURN format('readings of %s, which was decommissioned, are not archived yet', example);
    END IF;
    SELECT count(*), min(r.name) INTO waiting, example
    FROM unnest(flux.devices_in(of_table, piece_start, piece_end)) u(id)
    JOIN flux.mg_device_registry r ON r.id = u.id
    JOIN flux.rollup_devices d ON d.device_id = r.id
    WHERE coalesce(flux.rollup_final_before(r.id, as_of) < piece_end, true)
        -- a fall that is not decided yet hangs on the readings before it (flux.settle_falls)
        OR EXISTS (SELECT FROM flux.counter_events e WHERE e.device_id = r.id AND e.until IS NULL AND e.good_time < piece_end)
        -- a change after the piece can still reach back into it, as far as readings are joined
        OR EXISTS (SELECT FROM flux.rollup_changes c WHERE c.device_id = r.id
                   AND c.from_time < piece_end + make_interval(secs => flux.gap_limit_seconds(r.metadata)));
    IF waiting > 0 THEN
        RETURN concat('rollups are not final: ', example, CASE WHEN waiting > 1 THEN format(' and %s more', waiting - 1) END);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION flux.held_by(text, timestamptz, timestamptz, timestamptz) IS 'Why a piece may not go yet, in words; null: it may.';

CREATE OR REPLACE FUNCTION flux.retention_plan(as_of timestamptz DEFAULT now())
RETURNS TABLE (table_name text, piece regclass, from_time timestamptz, to_time timestamptz, bytes bigint, drop_after timestamptz, held_by text)
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    SELECT s.table_name, p.piece, p.from_time, p.to_time, p.bytes, p.to_time + s.keep,
           CASE WHEN p.to_time + s.keep <= as_of THEN flux.held_by(s.table_name, p.from_time, p.to_time, as_of) END
    FROM flux.time_series s CROSS JOIN LATERAL flux.pieces(s.table_name) p
    WHERE s.keep IS NOT NULL ORDER BY s.table_name, p.from_time
$$;
COMMENT ON FUNCTION flux.retention_plan(timestamptz) IS 'Every piece that is not kept for ever, when it goes, and what holds it back if that time has come.';

CREATE OR REPLACE FUNCTION flux.settle_falls(piece_end timestamptz, as_of timestamptz DEFAULT now()) RETURNS void
LANGUAGE sql SET search_path = pg_catalog AS $$
    WITH open AS (
        SELECT e.device_id, e.counter, e.time, f.kind
        FROM flux.counter_events e
        JOIN flux.mg_device_registry r ON r.id = e.device_id
        CROSS JOIN LATERAL flux.judged_fall(
            e.good_value, e.value, flux.counter_width(r.metadata, e.counter),
            coalesce(flux.positive_number(r.metadata -> 'max_power_kw'), 'Infinity')
                * date_part('epoch', e.time - e.good_time) / 3600) f
        -- (a week, for what a gateway that was cut off may still bring)
        WHERE e.until IS NULL AND e.good_time < piece_end AND e.time + interval '7 days' <= as_of
            AND NOT EXISTS (SELECT FROM flux.rollup_changes c WHERE c.device_id = e.device_id)
    ), ruled AS (
        INSERT INTO flux.counter_rulings AS u (device_id, counter, time, kind, decided_by, reason)
        SELECT o.device_id, o.counter, o.time, o.kind, 'flux', 'nothing was read after the fall until its readings were to be dropped'
        FROM open o
        ON CONFLICT (device_id, counter, time) DO UPDATE
            SET kind = excluded.kind, decided_by = excluded.decided_by, decided_at = now(), reason = excluded.reason
            WHERE u.kind = 'as_judged'
        RETURNING u.device_id, u.counter, u.time, u.kind, u.decided_by, u.reason
    )
    INSERT INTO flux.counter_ruling_history (device_id, counter, time, kind, decided_by, reason) SELECT * FROM ruled
$$;
COMMENT ON FUNCTION flux.settle_falls(timestamptz, timestamptz) IS
    'Rules on falls that hold readings before piece_end and that no reading came after: as if one had come that did not bring the counter back.';

-- One piece, in the caller's transaction: everything or nothing. Null: it has gone (hypertable), or is ready to be
-- detached and dropped (native: DETACH … CONCURRENTLY cannot run in a function); else why not.
CREATE OR REPLACE FUNCTION flux.retire_piece(
    of_table text, piece_start timestamptz, archived_to text DEFAULT NULL, as_of timestamptz DEFAULT now()
) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    series  flux.time_series;
    found   record;
    reason  text;
    devices uuid[];
BEGIN
    SELECT s.* INTO series FROM flux.time_series s WHERE s.table_name = of_table;
    PERFORM set_config('lock_timeout', '5s', true);  -- whoever reads the piece for long is not in anybody's way: next time
    IF of_table IN ('mg_meter_readings', 'mg_bess_readings') THEN
        -- first the devices, then the piece: as a refresh does
        PERFORM FROM flux.rollup_devices d ORDER BY d.device_id FOR UPDATE;
    END IF;
    SELECT p.* INTO found FROM flux.pieces(of_table) p ORDER BY p.from_time LIMIT 1;
    IF found.from_time IS DISTINCT FROM piece_start THEN
        RETURN 'it is not the oldest piece';
    ELSIF series.keep IS NULL OR found.to_time + series.keep > as_of THEN
        RETURN 'it is kept for longer';
    END IF;
    IF of_table = 'mg_meter_readings' THEN
        PERFORM flux.settle_falls(found.to_time, as_of);
    END IF;
    IF series.archive AND archived_to IS NULL THEN
        RETURN 'it waits for its archive: flux db retention run --archive FOLDER';
    END IF;
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', found.piece);
    reason := flux.held_by(of_table, found.from_time, found.to_time, as_of);
    IF reason IS NOT NULL THEN
        RETURN reason;
    END IF;
    INSERT INTO flux.dropped_pieces (table_name, from_time, to_time, bytes, archived)
    VALUES (of_table, found.from_time, found.to_time, found.bytes, archived_to);
    IF of_table IN ('mg_meter_readings', 'mg_bess_readings') THEN
        devices := flux.devices_in(of_table, found.from_time, found.to_time);
        IF of_table = 'mg_meter_readings' THEN
            PERFORM flux.keep_meter_anchors(devices, found.to_time);
        ELSE
            PERFORM flux.keep_bess_anchors(devices, found.to_time);
        END IF;
        UPDATE flux.rollup_devices d SET cut = greatest(d.cut, found.to_time) WHERE d.device_id = ANY (devices);
    END IF;
    IF series.engine = 'hypertable' THEN
        EXECUTE format('SELECT %s($1::regclass, older_than => $2, newer_than => $3)', flux.timescale('drop_chunks'))
        USING format('flux.%I', of_table), found.to_time, found.from_time;
        RETURN NULL;
    END IF;
    IF devices IS NOT NULL THEN  -- at no time are they there twice
        EXECUTE format('DELETE FROM %s r USING flux.%I a WHERE a.device_id = r.device_id AND a.time = r.time',
                       found.piece, CASE of_table WHEN 'mg_meter_readings' THEN 'mg_meter_anchors' ELSE 'mg_bess_anchors' END);
    END IF;
    EXECUTE format('CREATE TRIGGER refuse_retired BEFORE INSERT OR UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION flux.refuse_retired()', found.piece);
    EXECUTE format('ALTER TABLE %s RENAME TO %I', found.piece, flux.partition_name(of_table, series.step, found.from_time) || '_retired');
    RETURN NULL;
END $$;
COMMENT ON FUNCTION flux.retire_piece(text, timestamptz, text, timestamptz) IS
    'Takes the oldest piece of a table out of use, keeping what rollups need of it; null: done, else why not.';

CREATE OR REPLACE FUNCTION flux.retired_pieces() RETURNS TABLE (piece text, parent text, pending boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    SELECT c.relname::text, p.relname::text, coalesce(i.inhdetachpending, false)
    FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid LEFT JOIN pg_class p ON p.oid = i.inhparent
    WHERE c.relnamespace = 'flux'::regnamespace AND c.relkind = 'r' AND c.relname LIKE '%\_retired'
    ORDER BY c.relname
$$;
COMMENT ON FUNCTION flux.retired_pieces() IS 'Partitions that are to be dropped: still attached (parent), half detached (pending), or on their own.';

CREATE OR REPLACE FUNCTION flux.set_retention(of_table text, keep_for interval, archive_first boolean DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    epoch   CONSTANT timestamptz := '2000-01-01 00:00:00+00';  -- (an interval by itself takes a year for 360 days)
    series  flux.time_series;
    finer   text;
    coarser text;
    claims  jsonb := nullif(current_setting('request.jwt.claims', true), '');
BEGIN
    IF NOT flux.sees_all() THEN  -- (a table has the rows of every site)
        RAISE EXCEPTION 'how long tables are kept is for who sees every site' USING ERRCODE = 'insufficient_privilege';
    END IF;
    SELECT s.* INTO series FROM flux.time_series s WHERE s.table_name = of_table FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION '% is not a table that is kept for a time', of_table USING ERRCODE = 'no_data_found';
    END IF;
    -- while a finer level is there and changes, the coarser one is made from it anew
    SELECT f.table_name, c.table_name INTO finer, coarser
    FROM flux.time_series f JOIN flux.time_series c ON c.made_from = f.table_name
    WHERE of_table IN (f.table_name, c.table_name)
        AND coalesce(epoch + CASE WHEN c.table_name = of_table THEN keep_for ELSE c.keep END, 'infinity')
          < coalesce(epoch + CASE WHEN f.table_name = of_table THEN keep_for ELSE f.keep END, 'infinity') LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '% is made from % and must be kept as long or longer', coarser, finer USING ERRCODE = 'check_violation';
    END IF;
    IF archive_first AND of_table NOT IN ('mg_meter_readings', 'mg_bess_readings') THEN
        RAISE EXCEPTION 'only readings are written to an archive' USING ERRCODE = 'check_violation';
    END IF;
    UPDATE flux.time_series s SET keep = keep_for, archive = coalesce(archive_first, s.archive) WHERE s.table_name = of_table;
    IF claims IS NOT NULL THEN  -- (an operator of the host leaves no note: whoever has the database can do anything)
        PERFORM flux.note_api_write('set_retention(' || concat_ws(', ', of_table, coalesce(keep_for::text, 'forever'),
            CASE archive_first WHEN true THEN 'archive' WHEN false THEN 'no archive' END) || ')', 'EXECUTE', NULL, claims);
    END IF;
END $$;
COMMENT ON FUNCTION flux.set_retention(text, interval, boolean) IS 'How long a table''s rows are kept (null: for ever), and whether they are written to Parquet before they go.';

CREATE OR REPLACE FUNCTION flux.storage_status(as_of timestamptz DEFAULT now())
RETURNS TABLE (table_name text, engine text, keep interval, archive boolean, pieces bigint, compressed bigint, bytes bigint,
               ratio double precision, oldest timestamptz, next_drop timestamptz, held_by text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    series flux.time_series;
BEGIN
    IF NOT flux.sees_all() THEN  -- (sizes and oldest times are of every site's rows)
        RAISE EXCEPTION 'what is kept is for who sees every site' USING ERRCODE = 'insufficient_privilege';
    END IF;
    FOR series IN SELECT s.* FROM flux.time_series s ORDER BY s.table_name LOOP
        table_name := series.table_name;
        engine := series.engine;
        keep := series.keep;
        archive := series.archive;
        ratio := NULL;
        held_by := NULL;
        IF engine = 'rows' THEN
            pieces := NULL;
            compressed := NULL;
            bytes := pg_total_relation_size(format('flux.%I', table_name)::regclass);
            EXECUTE format('SELECT min(%I) FROM flux.%I', series.time_column, table_name) INTO oldest;
            next_drop := oldest + keep;
        ELSE
            SELECT count(*), count(*) FILTER (WHERE p.compressed), coalesce(sum(p.bytes), 0), min(p.from_time), min(p.to_time) + keep
            INTO pieces, compressed, bytes, oldest, next_drop FROM flux.pieces(series.table_name) p;
            IF next_drop <= as_of THEN
                SELECT flux.held_by(series.table_name, p.from_time, p.to_time, as_of) INTO held_by
                FROM flux.pieces(series.table_name) p ORDER BY p.from_time LIMIT 1;
            END IF;
            IF compressed > 0 THEN
                EXECUTE format('SELECT before_compression_total_bytes::double precision / nullif(after_compression_total_bytes, 0) FROM %s($1::regclass)',
                               flux.timescale('hypertable_columnstore_stats')) INTO ratio USING format('flux.%I', table_name);
            END IF;
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION flux.storage_status(timestamptz) IS 'Each table that is kept for a time: its size, how much smaller compression made it (ratio), what goes next and when.';

CREATE OR REPLACE FUNCTION flux.delete_old_rows(of_table text, as_of timestamptz DEFAULT now(), at_most integer DEFAULT 10000) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    series flux.time_series;
    gone   bigint;
BEGIN
    SELECT s.* INTO series FROM flux.time_series s WHERE s.table_name = of_table AND s.engine = 'rows';
    EXECUTE format('DELETE FROM flux.%I WHERE ctid = ANY (ARRAY(SELECT ctid FROM flux.%I WHERE %I < $1 LIMIT $2))',
                   of_table, of_table, series.time_column)
    USING as_of - series.keep, at_most;
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END $$;
COMMENT ON FUNCTION flux.delete_old_rows(text, timestamptz, integer) IS 'Deletes rows that are past their time from a table that has no pieces; returns how many.';

-- What TimescaleDB runs as a job of its own. No SET clause: a procedure that has one may not commit.
CREATE OR REPLACE PROCEDURE flux.retention_job(job_id integer DEFAULT NULL, config jsonb DEFAULT NULL) LANGUAGE plpgsql AS $$
DECLARE
    series flux.time_series;
    oldest timestamptz;
    reason text;
BEGIN
    IF (SELECT s.engine FROM flux.storage s) <> 'hypertable' THEN
        RAISE EXCEPTION 'partitions are detached and dropped by `flux worker` or `flux db retention run`' USING ERRCODE = 'feature_not_supported';
    END IF;
    FOR series IN SELECT s.* FROM flux.time_series s WHERE s.keep IS NOT NULL AND s.engine = 'hypertable' ORDER BY s.table_name LOOP
        LOOP
            SELECT p.from_time INTO oldest FROM flux.pieces(series.table_name) p WHERE p.to_time + series.keep <= now() ORDER BY 1 LIMIT 1;
            EXIT WHEN oldest IS NULL;
            BEGIN
                reason := flux.retire_piece(series.table_name, oldest);
            EXCEPTION WHEN lock_not_available THEN
                reason := 'somebody is reading it';
            END;
            COMMIT;
            IF reason IS NOT NULL THEN
                RAISE LOG 'flux.% from % stays: %', series.table_name, oldest, reason;
                EXIT;
            END IF;
        END LOOP;
    END LOOP;
    FOR series IN SELECT s.* FROM flux.time_series s WHERE s.keep IS NOT NULL AND s.engine = 'rows' LOOP
        WHILE flux.delete_old_rows(series.table_name) > 0 LOOP
            COMMIT;
        END LOOP;
    END LOOP;
    COMMIT;
END $$;
COMMENT ON PROCEDURE flux.retention_job(integer, jsonb) IS 'Retention under TimescaleDB, one transaction for each piece: its jobs list shows it.';

DO $do$
DECLARE
    known boolean;
BEGIN
    IF (SELECT s.engine FROM flux.storage s) = 'hypertable' THEN
        EXECUTE 'SELECT EXISTS (SELECT FROM timescaledb_information.jobs WHERE proc_schema = ''flux'' AND proc_name = ''retention_job'')' INTO known;
        IF NOT known THEN
            EXECUTE format('SELECT %s(''flux.retention_job'', ''1 hour'')', flux.timescale('add_job'));
        END IF;
    END IF;
END $do$;

SELECT flux.ensure_partitions_ahead();
