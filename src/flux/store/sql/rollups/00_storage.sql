-- How a time series is kept. Which engine keeps it is known to keep_as_time_series, ensure_partitions, pieces and
-- retire_piece, and to nothing else; which one it is was written to flux.storage when the schema was made.

SET LOCAL client_min_messages = warning;  -- "… already exists, skipping" is the normal case here

CREATE OR REPLACE FUNCTION flux.timescale(function text) RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    SELECT format('%I.%I', n.nspname, function)
    FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'timescaledb'
$$;
COMMENT ON FUNCTION flux.timescale(text) IS 'The full name of a function of TimescaleDB: it may be installed in any schema.';

CREATE OR REPLACE FUNCTION flux.grants_of(relation regclass) RETURNS SETOF text LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    SELECT format('GRANT %s ON %s TO %s %s', a.privilege_type, relation,
                  CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
                  CASE WHEN a.is_grantable THEN 'WITH GRANT OPTION' END)
    FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a WHERE c.oid = relation AND a.grantee <> c.relowner
$$;
COMMENT ON FUNCTION flux.grants_of(regclass) IS 'The statements that give others their rights on a table or view.';

CREATE OR REPLACE FUNCTION flux.dependents_of(relation regclass)
RETURNS TABLE (name regclass, relkind "char", owner regrole, options text[], depth integer)
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    WITH RECURSIVE dependents(oid, depth) AS (
        SELECT relation::oid, 0
        UNION
        SELECT r.ev_class, d.depth + 1
        FROM dependents d
        JOIN pg_depend p ON p.refclassid = 'pg_class'::regclass AND p.refobjid = d.oid AND p.classid = 'pg_rewrite'::regclass
        JOIN pg_rewrite r ON r.oid = p.objid AND r.ev_class <> d.oid
    )
    SELECT c.oid::regclass, c.relkind, c.relowner::regrole, c.reloptions, max(d.depth)
    FROM dependents d JOIN pg_class c ON c.oid = d.oid WHERE d.depth > 0
    GROUP BY c.oid, c.relkind, c.relowner, c.reloptions
$$;
COMMENT ON FUNCTION flux.dependents_of(regclass) IS 'The views that are built on a table or view; depth: over how many others at most.';

CREATE OR REPLACE FUNCTION flux.built_on(relation regclass) RETURNS SETOF text LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE
    found record;
BEGIN
    FOR found IN SELECT d.* FROM flux.dependents_of(relation) d ORDER BY d.depth LOOP
        IF found.relkind <> 'v' THEN
            RAISE EXCEPTION '% is built on %: drop it, migrate, and make it again', found.name, relation
                USING ERRCODE = 'dependent_objects_still_exist';
        END IF;
        RETURN NEXT format('CREATE VIEW %s %s AS %s', found.name,
                           'WITH (' || array_to_string(found.options, ', ') || ')', pg_get_viewdef(found.name));
        RETURN NEXT format('COMMENT ON VIEW %s IS %L', found.name, obj_description(found.name, 'pg_class'));
        RETURN NEXT format('ALTER VIEW %s OWNER TO %s', found.name, found.owner);
        RETURN QUERY SELECT flux.grants_of(found.name);
    END LOOP;
END $$;
COMMENT ON FUNCTION flux.built_on(regclass) IS 'The statements that make again, in order, the views that are built on a table.';

-- A table, plain or kept by the other engine, becomes a time series of the engine of this database: a new table of its
-- name with everything that it has, to which its rows are moved. All in the caller's transaction.
CREATE OR REPLACE FUNCTION flux.keep_as_time_series(
    name text, time_col text, piece_step text, keep_for interval DEFAULT NULL, source text DEFAULT NULL
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    chosen  CONSTANT text := (SELECT s.engine FROM flux.storage s);
    kept    flux.time_series;
    old     regclass := format('flux.%I', name)::regclass;
    moved   CONSTANT text := name || '_before';
    columns text;
    again   text[];
    at      timestamptz;
    one     text;
BEGIN
    SELECT s.* INTO kept FROM flux.time_series s WHERE s.table_name = name;
    IF FOUND THEN
        UPDATE flux.time_series s SET made_from = source WHERE s.table_name = name AND s.made_from IS DISTINCT FROM source;
        IF kept.engine = chosen THEN
            RETURN;
        END IF;
    ELSE
        INSERT INTO flux.time_series (table_name, time_column, step, keep, made_from) VALUES (name, time_col, piece_step, keep_for, source);
    END IF;
    UPDATE flux.time_series s SET engine = chosen WHERE s.table_name = name;

    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', old);
    SELECT array_agg(t.text ORDER BY t.n, t.text) INTO again FROM (
        SELECT CASE contype WHEN 'p' THEN 1 ELSE 2 END, format('ALTER TABLE %s ADD CONSTRAINT %I %s', old, conname, pg_get_constraintdef(oid))
        FROM pg_constraint WHERE conrelid = old AND contype IN ('p', 'u', 'f') AND conparentid = 0
        UNION ALL
        SELECT 3, pg_get_indexdef(i.indexrelid) FROM pg_index i
        WHERE i.indrelid = old AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid AND c.conrelid = old)
        UNION ALL
        -- (a trigger for deletions that wants the old rows is what hypertables refuse)
        SELECT 4, pg_get_triggerdef(oid) FROM pg_trigger
        WHERE tgrelid = old AND NOT tgisinternal AND NOT (chosen = 'hypertable' AND tgoldtable IS NOT NULL AND tgnewtable IS NULL)
        UNION ALL
        SELECT 5, flux.grants_of(old)
        UNION ALL
        SELECT 6, format('COMMENT ON TABLE %s IS %L', old, obj_description(old))
        UNION ALL
        SELECT 7, format('ALTER TABLE %s OWNER TO %s', old, relowner::regrole) FROM pg_class
        WHERE oid = old AND relowner <> current_user::regrole
    ) t(n, text);
    again := again || array(SELECT flux.built_on(old));
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO columns
    FROM pg_attribute WHERE attrelid = old AND attnum > 0 AND NOT attisdropped AND attgenerated = '';

    EXECUTE format('ALTER TABLE %s RENAME TO %I', old, moved);
    EXECUTE format('CREATE TABLE flux.%I (LIKE flux.%I INCLUDING ALL EXCLUDING INDEXES) %s', name, moved,
                   CASE WHEN chosen = 'partitions' THEN format('PARTITION BY RANGE (%I)', time_col) END);
    IF chosen = 'hypertable' THEN
        EXECUTE format('SELECT %s(%L, %s(%L, %L::interval), create_default_indexes => false)',
                       flux.timescale('create_hypertable'), format('flux.%I', name), flux.timescale('by_range'), time_col,
                       -- (a chunk is compressed when all of it is older than 7 days, so these are shorter than partitions)
                       CASE piece_step WHEN 'day' THEN '1 day' WHEN 'week' THEN '7 days' WHEN 'month' THEN '14 days' ELSE '84 days' END);
    ELSE
        FOR at IN EXECUTE format('SELECT DISTINCT date_trunc(%L, %I, ''UTC'') FROM flux.%I', piece_step, time_col, moved) LOOP
            PERFORM flux.ensure_partitions(format('flux.%I', name)::regclass, at, at);
        END LOOP;
    END IF;
    EXECUTE format('INSERT INTO flux.%I (%s) SELECT %s FROM flux.%I', name, columns, columns, moved);
    EXECUTE format('DROP TABLE flux.%I CASCADE', moved);
    FOREACH one IN ARRAY again LOOP
        EXECUTE one;
    END LOOP;
    IF chosen = 'hypertable' THEN
        EXECUTE format('ALTER TABLE flux.%I SET (timescaledb.enable_columnstore, timescaledb.segmentby = ''device_id'', timescaledb.orderby = %L)',
                       name, quote_ident(time_col));
        EXECUTE format('CALL %s(%L, after => interval ''7 days'')', flux.timescale('add_columnstore_policy'), format('flux.%I', name));
    END IF;
END $$;
COMMENT ON FUNCTION flux.keep_as_time_series(text, text, text, interval, text) IS
    'Has table flux.<name>, rows and all, kept as a time series of this database''s engine; nothing if it is already.';

CREATE OR REPLACE FUNCTION flux.create_time_series(name text, columns text, time_column text, step text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    EXECUTE format('CREATE TABLE flux.%I (%s)', name, columns);
    PERFORM flux.keep_as_time_series(name, time_column, step);
END $$;

CREATE OR REPLACE FUNCTION flux.ensure_partitions(parent regclass, from_time timestamptz, to_time timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET DateStyle = 'ISO'  -- bounds are written as text: in other styles a zone is a name, and names mean several zones
AS $$
DECLARE
    series    flux.time_series;
    start_at  timestamptz;
    end_at    timestamptz;
    piece     text;
    made      integer := 0;
BEGIN
    SELECT s.* INTO series FROM flux.time_series s
        JOIN pg_class c ON c.relname = s.table_name AND c.relnamespace = 'flux'::regnamespace WHERE c.oid = parent;
    IF NOT FOUND THEN
        RAISE EXCEPTION '% is not a time series of Flux', parent USING ERRCODE = 'wrong_object_type';
    END IF;
    IF NOT (isfinite(from_time) AND isfinite(to_time)) THEN
        RAISE EXCEPTION 'partitions are made for a span that begins and ends' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF series.engine <> 'partitions' THEN
        RETURN 0;  -- a hypertable makes its chunks by itself
    END IF;
    start_at := date_trunc(series.step, from_time, 'UTC');
    WHILE start_at <= to_time LOOP
        end_at := (start_at AT TIME ZONE 'UTC' + ('1 ' || series.step)::interval) AT TIME ZONE 'UTC';
        piece := flux.partition_name(series.table_name, series.step, start_at);
        IF to_regclass(format('flux.%I', piece)) IS NULL THEN
            -- One at a time: two sessions that meet a new week would both try to make its partition.
            PERFORM pg_advisory_xact_lock(hashtext('flux.ensure_partitions'), parent::oid::integer);
        END IF;
        -- (asked of the table itself: this session still remembers that the name was free)
        IF NOT EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = 'flux'::regnamespace AND c.relname = piece) THEN
            -- Made apart and then attached: CREATE … PARTITION OF would lock out every reader and writer.
            EXECUTE format('CREATE TABLE flux.%I (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', piece, parent);
            EXECUTE format('ALTER TABLE %s ATTACH PARTITION flux.%I FOR VALUES FROM (%L) TO (%L)',
                           parent, piece, start_at, end_at);
            made := made + 1;
        END IF;
        start_at := end_at;
    END LOOP;
    RETURN made;
END $$;
COMMENT ON FUNCTION flux.ensure_partitions(regclass, timestamptz, timestamptz) IS
    'Makes the partitions that hold from_time … to_time (both included) where they are missing; returns how many. Takes no lock that stops readers or writers.';

CREATE OR REPLACE FUNCTION flux.ensure_partitions_ahead(as_of timestamptz DEFAULT now()) RETURNS integer
LANGUAGE sql SET search_path = pg_catalog AS $$
    SELECT coalesce(sum(flux.ensure_partitions(format('flux.%I', s.table_name)::regclass, as_of, as_of + ('1 ' || s.step)::interval)), 0)::integer
    FROM flux.time_series s WHERE s.engine = 'partitions'
$$;
COMMENT ON FUNCTION flux.ensure_partitions_ahead(timestamptz) IS 'The piece of now and the next one of every time series, so that nobody has to wait for them.';

CREATE OR REPLACE FUNCTION flux.refuse_retired() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% is being dropped: try again in a minute', tg_table_name USING ERRCODE = 'object_in_use';
END $$;
COMMENT ON FUNCTION flux.refuse_retired() IS 'Nothing may come into a partition that retention is about to drop.';
