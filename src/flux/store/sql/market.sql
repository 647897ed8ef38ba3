-- Market data: one way in for every value, and what was known when.
-- Applied anew whenever it changes; running it again changes nothing.

-- ── Recording ──────────────────────────────────────────────────────────────────────────────────────────────────────

CREATE OR REPLACE FUNCTION flux.market_place(
    types integer[], sites text[], times timestamptz[], vals double precision[], metadatas jsonb[], known timestamptz[]
) RETURNS TABLE (written bigint, conflicts bigint) LANGUAGE plpgsql SET search_path = pg_catalog AS $$
-- Puts values into the history at the instants at which they became known, and the newest of each into market_data.
-- History is the sequence of changes by known_at, whatever order they arrive in: all statements about one type, site
-- and time are taken apart (known_at and repeated_at), the new ones added, and put together again.
#variable_conflict use_column
DECLARE
    latest CONSTANT timestamptz := clock_timestamp() + interval '5 minutes';
    early  timestamptz := (SELECT min(k) FROM unnest(known) k WHERE k > latest OR NOT isfinite(k));
BEGIN
    IF early IS NOT NULL THEN
        RAISE EXCEPTION 'a value cannot be known at %, which is still to come', early USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN QUERY
    WITH given AS (
        SELECT g.n, g.type, g.site, g.time, g.value, g.metadata, g.known_at
        FROM unnest(types, sites, times, vals, metadatas, known) WITH ORDINALITY
            AS g(type, site, time, value, metadata, known_at, n)
    ), keys AS (
        SELECT DISTINCT g.type, g.site, g.time FROM given g
    ), old AS (
        SELECT h.id, h.type, h.site, h.time, h.value, h.metadata, h.known_at, h.repeated_at
        FROM keys k
        JOIN flux.market_data_history h ON h.type = k.type AND h.time = k.time AND h.site IS NOT DISTINCT FROM k.site
    ), stated AS (
        SELECT 0::bigint AS n, o.type, o.site, o.time, o.value, o.metadata, s.known_at,
            CASE WHEN s.known_at = o.known_at THEN o.id END AS id,
            CASE WHEN s.known_at = o.known_at THEN o.repeated_at::text END AS before
        FROM old o CROSS JOIN LATERAL unnest(o.known_at || o.repeated_at) AS s(known_at)
        UNION ALL
        SELECT g.n, g.type, g.site, g.time, g.value, g.metadata, g.known_at, NULL, NULL FROM given g
    ), ranked AS (
        -- by windows and sets, no joins: the planner takes a batch for a few rows, and would join each with each
        SELECT s.*, row_number() OVER w AS place, first_value(s.value) OVER w AS said,
            first_value(s.metadata) OVER w AS said_of
        FROM stated s WINDOW w AS (PARTITION BY s.type, s.site, s.time, s.known_at ORDER BY s.n)
    ), marked AS (
        SELECT p.*, lag(p.known_at) OVER w IS NULL OR (p.value, p.metadata) IS DISTINCT FROM
            (lag(p.value) OVER w, lag(p.metadata) OVER w) AS changed
        FROM ranked p WHERE p.place = 1 WINDOW w AS (PARTITION BY p.type, p.site, p.time ORDER BY p.known_at)
    ), numbered AS (
        SELECT m.*, count(*) FILTER (WHERE m.changed)
            OVER (PARTITION BY m.type, m.site, m.time ORDER BY m.known_at) AS version
        FROM marked m
    ), wanted AS (
        SELECT m.type, m.site, m.time, m.version, min(m.known_at) AS known_at,
            (array_agg(m.value))[1] AS value, (array_agg(m.metadata))[1] AS metadata,
            (array_agg(m.known_at ORDER BY m.known_at))[2:] AS repeated_at,
            (array_agg(m.id ORDER BY m.known_at))[1] AS id, (array_agg(m.before ORDER BY m.known_at))[1] AS before
        FROM numbered m GROUP BY m.type, m.site, m.time, m.version
    ), dropped AS (
        -- what it said is in the row before it now
        DELETE FROM flux.market_data_history h
        WHERE h.id IN (SELECT o.id FROM old o EXCEPT SELECT w.id FROM wanted w)
    ), kept AS (
        INSERT INTO flux.market_data_history AS h (type, site, time, value, metadata, known_at, repeated_at)
        SELECT w.type, w.site, w.time, w.value, w.metadata, w.known_at, w.repeated_at
        FROM wanted w WHERE w.id IS NULL OR w.before <> w.repeated_at::text
        ORDER BY w.type, w.site, w.time, w.known_at
        ON CONFLICT (type, site, time, known_at) DO UPDATE SET repeated_at = excluded.repeated_at
        RETURNING h.xmax = 0 AS fresh
    ), newest AS (
        INSERT INTO flux.market_data AS d (type, site, time, value, metadata, known_at)
        SELECT n.* FROM (
            SELECT DISTINCT ON (w.type, w.site, w.time) w.type, w.site, w.time, w.value, w.metadata, w.known_at
            FROM wanted w ORDER BY w.type, w.site, w.time, w.known_at DESC
        ) n LEFT JOIN flux.market_data d ON d.type = n.type AND d.time = n.time AND d.site IS NOT DISTINCT FROM n.site
        WHERE d.id IS NULL OR (d.value, d.metadata, d.known_at) IS DISTINCT FROM (n.value, n.metadata, n.known_at)
        ORDER BY n.type, n.site, n.time
        ON CONFLICT (type, site, time) DO UPDATE
            SET value = excluded.value, metadata = excluded.metadata, known_at = excluded.known_at
    )
    SELECT (SELECT count(*) FROM kept k WHERE k.fresh),
        (SELECT count(*) FROM ranked r WHERE r.n > 0 AND (r.value, r.metadata) IS DISTINCT FROM (r.said, r.said_of));
END $$;
COMMENT ON FUNCTION flux.market_place(integer[], text[], timestamptz[], double precision[], jsonb[], timestamptz[]) IS
    'Part of flux.record_market: values whose known_at is stated.';

CREATE OR REPLACE FUNCTION flux.record_market(
    types integer[], sites text[], times timestamptz[], vals double precision[], metadatas jsonb[], known timestamptz[]
) RETURNS TABLE (written bigint, conflicts bigint) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    here  CONSTANT timestamptz := clock_timestamp();
    more  record;
    own   CONSTANT boolean := current_setting('flux.market_recording', true) IS DISTINCT FROM 'on';
BEGIN
    -- it runs as its owner, to whom no policy applies: what the caller may not write is refused here
    IF NOT flux.sees_all() AND EXISTS (SELECT FROM unnest(sites) s(site) WHERE NOT flux.sees_site(s.site)) THEN
        RAISE EXCEPTION 'market data of this site is not the caller''s to write' USING ERRCODE = 'insufficient_privilege';
    END IF;
    -- one at a time for each type: two that found the same newest value would both add theirs
    PERFORM pg_advisory_xact_lock(hashtext('flux.market_data'), t.type)
        FROM (SELECT DISTINCT u.type FROM unnest(types) AS u(type) ORDER BY u.type) t;
    PERFORM set_config('flux.market_recording', 'on', true);
    SELECT p.written, p.conflicts INTO written, conflicts FROM (
        SELECT array_agg(g.type ORDER BY g.n), array_agg(g.site ORDER BY g.n), array_agg(g.time ORDER BY g.n),
            array_agg(g.value ORDER BY g.n), array_agg(g.metadata ORDER BY g.n), array_agg(g.known_at ORDER BY g.n)
        FROM unnest(types, sites, times, vals, metadatas, known) WITH ORDINALITY
            AS g(type, site, time, value, metadata, known_at, n)
        WHERE g.known_at IS NOT NULL
    ) a(ty, si, ti, va, me, kn) CROSS JOIN LATERAL flux.market_place(a.ty, a.si, a.ti, a.va, a.me, a.kn) p
    WHERE a.ty IS NOT NULL;

    -- Known since now, unless it is what is known already, or what its own source said last: then it takes the place
    -- that it has. (An estimate that goes on being served is no news, though another source has settled it since.)
    SELECT p.* INTO more FROM (
        SELECT array_agg(g.type), array_agg(g.site), array_agg(g.time), array_agg(g.value), array_agg(g.metadata),
            array_agg(CASE WHEN (g.value, g.metadata) IS NOT DISTINCT FROM (h.value, h.metadata) THEN h.known_at
                WHEN (g.value, g.metadata) IS NOT DISTINCT FROM (s.value, s.metadata) THEN s.known_at
                ELSE greatest(here, h.last_at + interval '1 microsecond') END)
        FROM (
            SELECT DISTINCT ON (u.type, u.site, u.time) u.*
            FROM unnest(types, sites, times, vals, metadatas, known) WITH ORDINALITY
                AS u(type, site, time, value, metadata, known_at, n)
            WHERE u.known_at IS NULL ORDER BY u.type, u.site, u.time, u.n DESC
        ) g LEFT JOIN LATERAL (
            SELECT o.value, o.metadata, o.known_at, greatest(o.known_at, o.repeated_at[cardinality(o.repeated_at)]) AS last_at
            FROM flux.market_data_history o
            WHERE o.type = g.type AND o.time = g.time AND o.site IS NOT DISTINCT FROM g.site
            ORDER BY o.known_at DESC LIMIT 1
        ) h ON true LEFT JOIN LATERAL (
            SELECT o.value, o.metadata, o.known_at FROM flux.market_data_history o
            WHERE o.type = g.type AND o.time = g.time AND o.site IS NOT DISTINCT FROM g.site
                AND o.metadata ->> 'source' = g.metadata ->> 'source'
            ORDER BY o.known_at DESC LIMIT 1
        ) s ON true
    ) a(ty, si, ti, va, me, kn) CROSS JOIN LATERAL flux.market_place(a.ty, a.si, a.ti, a.va, a.me, a.kn) p
    WHERE a.ty IS NOT NULL;
    IF own THEN
        PERFORM set_config('flux.market_recording', 'off', true);
    END IF;
    written := coalesce(written, 0) + coalesce(more.written, 0);
    conflicts := coalesce(conflicts, 0);
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION flux.record_market(integer[], text[], timestamptz[], double precision[], jsonb[], timestamptz[]) IS
    'Stores values of market data, the nth of each array together; known null: known since now. written: rows that the history got; conflicts: statements that another value was known at that very instant, which are left out. The same again changes nothing, and of stated ones the order does not matter.';

-- ── Plain SQL by people ────────────────────────────────────────────────────────────────────────────────────────────

CREATE OR REPLACE FUNCTION flux.market_written() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('flux.market_recording', true) IS NOT DISTINCT FROM 'on' THEN
        RETURN NULL;
    END IF;
    IF tg_op = 'UPDATE' THEN
        PERFORM flux.record_market(array_agg(n.type), array_agg(n.site), array_agg(n.time), array_agg(n.value),
                array_agg(n.metadata), array_agg(CASE WHEN n.known_at IS DISTINCT FROM o.known_at THEN n.known_at END))
            FROM new_rows n LEFT JOIN old_rows o ON o.id = n.id
            WHERE (n.type, n.site, n.time, n.value, n.metadata, n.known_at)
                IS DISTINCT FROM (o.type, o.site, o.time, o.value, o.metadata, o.known_at)
            HAVING count(*) > 0;
    ELSE
        PERFORM flux.record_market(array_agg(n.type), array_agg(n.site), array_agg(n.time), array_agg(n.value),
                array_agg(n.metadata), array_agg(n.known_at))
            FROM new_rows n HAVING count(*) > 0;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION flux.market_written() IS
    'What people write to market_data lands in the history, what they write to the history in market_data.';
CREATE OR REPLACE TRIGGER record_insert AFTER INSERT ON flux.market_data REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION flux.market_written();
CREATE OR REPLACE TRIGGER record_update AFTER UPDATE ON flux.market_data
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION flux.market_written();
CREATE OR REPLACE TRIGGER record_insert AFTER INSERT ON flux.market_data_history REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION flux.market_written();

-- ── As of ──────────────────────────────────────────────────────────────────────────────────────────────────────────

CREATE OR REPLACE FUNCTION flux.market_as_of(
    types integer[], start_time timestamptz, end_time timestamptz, as_of timestamptz DEFAULT now(), site text DEFAULT NULL
) RETURNS TABLE (
    "time" timestamptz, type integer, value double precision, metadata jsonb, site text, known_at timestamptz
) LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT DISTINCT ON (h.type, h.time) h.time, h.type, h.value, h.metadata, h.site, h.known_at
    FROM flux.market_data_history h
    WHERE (types IS NULL OR h.type = ANY (types)) AND h.time >= start_time AND h.time < end_time AND h.known_at <= as_of
        AND (h.site IS NULL OR h.site = market_as_of.site)
    ORDER BY h.type, h.time, h.site NULLS LAST, h.known_at DESC
$$;
COMMENT ON FUNCTION flux.market_as_of(integer[], timestamptz, timestamptz, timestamptz, text) IS
    'The values about start_time ≤ time < end_time as they were known at as_of; of one type and time the site''s own goes before the one for all sites. types null: all; site null: only those for all sites.';

-- ── Joins ──────────────────────────────────────────────────────────────────────────────────────────────────────────

CREATE OR REPLACE FUNCTION flux.bess_with_market(
    start_time timestamptz, end_time timestamptz, device_ids uuid[] DEFAULT NULL, types integer[] DEFAULT NULL,
    as_then boolean DEFAULT false
) RETURNS TABLE (
    "time" timestamptz, device_id uuid, soe real, target_power real, available_inverter_blocks smallint,
    command_source smallint, type integer, value_time timestamptz, value double precision, known_at timestamptz
) LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT r.time, r.device_id, r.soe, r.target_power, r.available_inverter_blocks, r.command_source,
        t.id, m.time, m.value, m.known_at
    FROM flux.mg_device_registry d
    CROSS JOIN LATERAL (
        SELECT b.* FROM flux.mg_bess_readings b
        WHERE b.device_id = d.id AND b.time >= start_time AND b.time < end_time
    ) r
    CROSS JOIN flux.market_data_types t
    LEFT JOIN LATERAL (
        -- each branch is one step into an index; of those not asked for nothing is read
        SELECT v.* FROM (
            (SELECT 1 AS place, n.time, n.value, n.known_at FROM flux.market_data n
             WHERE NOT as_then AND n.type = t.id AND n.site = d.site AND n.time <= r.time AND n.time > r.time - t.holds
             ORDER BY n.time DESC LIMIT 1)
            UNION ALL
            (SELECT 2, n.time, n.value, n.known_at FROM flux.market_data n
             WHERE NOT as_then AND n.type = t.id AND n.site IS NULL AND n.time <= r.time AND n.time > r.time - t.holds
             ORDER BY n.time DESC LIMIT 1)
            UNION ALL
            (SELECT 1, h.time, h.value, h.known_at FROM flux.market_data_history h
             WHERE as_then AND h.type = t.id AND h.site = d.site AND h.time <= r.time AND h.time > r.time - t.holds
                 AND h.known_at <= r.time
             ORDER BY h.time DESC, h.known_at DESC LIMIT 1)
            UNION ALL
            (SELECT 2, h.time, h.value, h.known_at FROM flux.market_data_history h
             WHERE as_then AND h.type = t.id AND h.site IS NULL AND h.time <= r.time AND h.time > r.time - t.holds
                 AND h.known_at <= r.time
             ORDER BY h.time DESC, h.known_at DESC LIMIT 1)
        ) v ORDER BY v.place LIMIT 1
    ) m ON true
    WHERE d.type = 'bess' AND (device_ids IS NULL OR d.id = ANY (device_ids)) AND (types IS NULL OR t.id = ANY (types))
$$;
COMMENT ON FUNCTION flux.bess_with_market(timestamptz, timestamptz, uuid[], integer[], boolean) IS
    'Each reading of a battery with start_time ≤ time < end_time beside the value in force at its time, one row for each type: value_time ≤ time < value_time + the type''s holds, null where there is none; the site''s own goes before the one for all. as_then false: the newest value; true: as it was known at the reading''s time.';
