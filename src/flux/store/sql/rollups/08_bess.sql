-- Batteries. What a reading says holds until the next one, but no longer than the device's hold limit; the newest
-- reading holds nothing yet. Energy is what the battery's own storage meter counted, where it has one that knows the
-- bucket; else it is worked out from the target power.

CREATE OR REPLACE FUNCTION flux.hold_limit(metadata jsonb) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    SELECT make_interval(secs => least(greatest(coalesce(flux.duration_seconds(metadata ->> 'hold_limit'), 600), 60), 86400))
$$;
COMMENT ON FUNCTION flux.hold_limit(jsonb) IS
    'How long a battery''s reading holds when no other follows. metadata key hold_limit, e.g. "15m"; 10 minutes where there is none or it cannot be read; from 1 minute to 24 hours.';

CREATE OR REPLACE FUNCTION flux.storage_meters(at_site text) RETURNS TABLE (bess uuid, meter uuid, in_service boolean)
LANGUAGE sql STABLE AS $$
    -- named by the meter's metadata, storage_of: the battery's name or id; without it, the battery of a site with only one
    SELECT b.id, m.id, m.state <> 'decommissioned'
    FROM flux.mg_device_registry m
    JOIN flux.mg_device_registry b ON b.site = m.site AND b.type = 'bess' AND CASE
        WHEN m.metadata ? 'storage_of' THEN m.metadata ->> 'storage_of' = b.id::text
            OR (m.metadata ->> 'storage_of' = b.name AND b.state <> 'decommissioned')
        ELSE b.state <> 'decommissioned' AND 1 = (
            SELECT count(*) FROM flux.mg_device_registry o WHERE o.site = m.site AND o.type = 'bess' AND o.state <> 'decommissioned') END
    WHERE m.site = at_site AND m.type = 'meter' AND m.metadata ->> 'meter_type' = 'storage'
$$;
COMMENT ON FUNCTION flux.storage_meters(text) IS 'Which meters meter which battery of a site.';

CREATE OR REPLACE FUNCTION flux.rollup_refresh_bess(devices uuid[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    spans   flux.rollup_range[];
    buckets bigint;
BEGIN
    WITH taken AS (
        DELETE FROM flux.rollup_changes c WHERE c.device_id = ANY (devices) AND c.source = 'bess'
        RETURNING c.device_id, c.from_time, c.to_time
    ), joined AS (
        SELECT t.device_id, unnest(range_agg(tstzrange(t.from_time, t.to_time + flux.hold_limit(g.metadata)))) AS r
        FROM taken t JOIN flux.mg_device_registry g ON g.id = t.device_id GROUP BY t.device_id
    ), wide AS (
        SELECT j.device_id, unnest(range_agg(tstzrange(
            greatest(date_bin('5 minutes', coalesce(before.time, lower(j.r)), %epoch%), flux.rollup_first_open_hour(d.cut)),
            date_bin('5 minutes', upper(j.r), %epoch%) + interval '5 minutes'))) AS r
        FROM joined j
        JOIN flux.rollup_devices d ON d.device_id = j.device_id
        LEFT JOIN LATERAL (
            -- that it now has a next reading changes what the one before held
            SELECT b.time FROM flux.rollup_bess_readings b WHERE b.device_id = j.device_id AND b.time < lower(j.r)
            ORDER BY b.time DESC LIMIT 1
        ) before ON true
        WHERE d.cut IS NULL OR upper(j.r) >= flux.rollup_first_open_hour(d.cut)
        GROUP BY j.device_id
    )
    SELECT array_agg((w.device_id, lower(w.r), upper(w.r), false)::flux.rollup_range) INTO spans FROM wide w;
    IF spans IS NULL THEN
        RETURN 0;
    END IF;

    PERFORM flux.ensure_rollup_partitions('bess', spans);
    DELETE FROM flux.mg_bess_readings_5m t USING unnest(spans) s
    WHERE t.device_id = s.device_id AND t.time_b >= s.lo AND t.time_b < s.hi;
    WITH written AS (
        INSERT INTO flux.mg_bess_readings_5m (
@level            %m%_avg, %m%_min, %m%_max, %m%_held, %m%_held_seconds,
            device_id, time_b, samples, soe_last, available_inverter_blocks_min,
            energy_charged, energy_discharged, command_seconds)
        SELECT
@level            coalesce(sum(c.%m%_held) / nullif(sum(c.%m%_held_seconds), 0), sum(c.%m%_sum) / nullif(sum(c.%m%_n), 0)), min(c.%m%_min), max(c.%m%_max), sum(c.%m%_held), sum(c.%m%_held_seconds),
            p.device_id, c.bucket, sum(c.samples), (max(c.last_soe))[2], min(c.blocks),
            sum(c.charged), sum(c.discharged),
            coalesce(jsonb_object_agg(c.command_source, c.seconds)
                FILTER (WHERE c.command_source IS NOT NULL AND c.seconds > 0), '{}')
        FROM unnest(flux.rollup_days(spans)) p
        JOIN flux.mg_device_registry g ON g.id = p.device_id
        CROSS JOIN LATERAL (SELECT flux.hold_limit(g.metadata) AS hold OFFSET 0) l
        CROSS JOIN LATERAL (
            SELECT h.bucket, h.command_source,
                count(*) FILTER (WHERE h.own) AS samples,
@level                sum(h.%m%::double precision) FILTER (WHERE h.own) AS %m%_sum, count(h.%m%) FILTER (WHERE h.own) AS %m%_n, min(h.%m%) FILTER (WHERE h.own) AS %m%_min, max(h.%m%) FILTER (WHERE h.own) AS %m%_max,
@level                sum(h.%m% * h.seconds) AS %m%_held, sum(h.seconds) FILTER (WHERE h.%m% IS NOT NULL) AS %m%_held_seconds,
                max(ARRAY[date_part('epoch', h.time), h.soe]) FILTER (WHERE h.own AND h.soe IS NOT NULL) AS last_soe,
                min(h.available_inverter_blocks) FILTER (WHERE h.own) AS blocks,
                sum(h.seconds) AS seconds,
                coalesce(sum(greatest(-h.target_power, 0) * h.seconds / 3600), 0) AS charged,
                coalesce(sum(greatest(h.target_power, 0) * h.seconds / 3600), 0) AS discharged
            FROM (
                SELECT r.*, k.bucket, r.time >= k.bucket AS own,
                    date_part('epoch', least(r.held_until, k.bucket + interval '5 minutes') - greatest(r.time, k.bucket)) AS seconds
                FROM (
                    SELECT b.*, CASE WHEN lead(b.time) OVER (ORDER BY b.time) IS NULL THEN b.time
                                     ELSE least(b.time + l.hold, lead(b.time) OVER (ORDER BY b.time)) END AS held_until
                    FROM (
                        SELECT * FROM flux.rollup_bess_readings b
                        WHERE b.device_id = p.device_id AND b.time >= p.lo - l.hold AND b.time < p.hi
                        UNION ALL
                        (SELECT * FROM flux.rollup_bess_readings b
                         WHERE b.device_id = p.device_id AND b.time >= p.hi ORDER BY b.time LIMIT 1)
                    ) b
                ) r
                CROSS JOIN LATERAL generate_series(
                    date_bin('5 minutes', r.time, %epoch%),
                    greatest(r.held_until - interval '1 microsecond', r.time),
                    interval '5 minutes') k(bucket)
                WHERE k.bucket >= p.lo AND k.bucket < p.hi
            ) h
            GROUP BY h.bucket, h.command_source
        ) c
        GROUP BY p.device_id, c.bucket
        RETURNING 1
    )
    SELECT count(*) INTO buckets FROM written;

    -- what its own meter counted is better: in buckets that every meter of it in service knows
    INSERT INTO flux.mg_bess_readings_5m AS t (device_id, time_b, samples, energy_charged, energy_discharged, energy_from)
    SELECT s.device_id, m.time_b, 0, sum(m.energy_imported_active_delta), sum(m.energy_exported_active_delta), 'meter'
    FROM unnest(spans) s
    JOIN flux.mg_device_registry g ON g.id = s.device_id
    CROSS JOIN LATERAL (
        SELECT k.meter, count(*) FILTER (WHERE k.in_service) OVER () AS needed
        FROM flux.storage_meters(g.site) k WHERE k.bess = g.id
    ) k
    CROSS JOIN LATERAL (
        SELECT r.time_b, r.energy_imported_active_delta, r.energy_exported_active_delta
        FROM flux.mg_meter_readings_5m_intermediate r
        WHERE r.device_id = k.meter AND r.time_b >= s.lo AND r.time_b < s.hi
            AND r.energy_imported_active_delta IS NOT NULL AND r.energy_exported_active_delta IS NOT NULL
    ) m
    GROUP BY s.device_id, m.time_b HAVING count(*) >= max(k.needed)
    ON CONFLICT (device_id, time_b) DO UPDATE SET energy_from = excluded.energy_from,
        energy_charged = excluded.energy_charged, energy_discharged = excluded.energy_discharged;

    PERFORM flux.rollup_bess_30m(spans);
    PERFORM flux.rollup_bess_1h(spans);
    RETURN buckets;
END $$;
