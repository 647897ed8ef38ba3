-- Batteries, 5 minutes. A target power holds from its reading until the next one, but for 10 minutes at most; the newest
-- reading holds nothing yet. Energy is worked out from it: the battery's own counters, where it has any, are a meter's.

CREATE TABLE IF NOT EXISTS flux.mg_bess_readings_5m (
    device_id uuid NOT NULL,
    time_b    timestamptz NOT NULL,
    samples   integer NOT NULL,
    PRIMARY KEY (device_id, time_b)
);
ALTER TABLE flux.mg_bess_readings_5m
@level    ADD COLUMN IF NOT EXISTS %m%_avg real,
@level    ADD COLUMN IF NOT EXISTS %m%_min real,
@level    ADD COLUMN IF NOT EXISTS %m%_max real,
    ADD COLUMN IF NOT EXISTS soe_last real,
    ADD COLUMN IF NOT EXISTS available_inverter_blocks_min smallint,
    ADD COLUMN IF NOT EXISTS energy_charged double precision NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS energy_discharged double precision NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS energy_from text NOT NULL DEFAULT 'target_power',
    ADD COLUMN IF NOT EXISTS command_seconds jsonb NOT NULL DEFAULT '{}';
COMMENT ON TABLE flux.mg_bess_readings_5m IS 'Batteries, 5 minutes: …_avg, …_min, …_max of the samples (null where samples = 0), energy and what commanded it.';
COMMENT ON COLUMN flux.mg_bess_readings_5m.soe_last IS '%, the last sample of the bucket.';
COMMENT ON COLUMN flux.mg_bess_readings_5m.energy_charged IS 'kWh that went in, never negative.';
COMMENT ON COLUMN flux.mg_bess_readings_5m.energy_discharged IS 'kWh that came out, never negative.';
COMMENT ON COLUMN flux.mg_bess_readings_5m.energy_from IS 'What the energy was worked out from: target_power, held until the next reading.';
COMMENT ON COLUMN flux.mg_bess_readings_5m.command_seconds IS 'Seconds under each command source, e.g. {"3": 240, "0": 60}.';

CREATE OR REPLACE FUNCTION flux.rollup_refresh_bess(devices uuid[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    hold  CONSTANT interval := '10 minutes';
    spans flux.rollup_range[];
    buckets bigint;
BEGIN
    WITH taken AS (
        DELETE FROM flux.rollup_changes c WHERE c.device_id = ANY (devices) AND c.source = 'bess'
        RETURNING c.device_id, c.from_time, c.to_time
    ), joined AS (
        SELECT t.device_id, unnest(range_agg(tstzrange(t.from_time, t.to_time + hold))) AS r FROM taken t GROUP BY t.device_id
    ), wide AS (
        SELECT j.device_id, unnest(range_agg(tstzrange(
            greatest(date_bin('5 minutes', coalesce(before.time, lower(j.r)), %epoch%), flux.rollup_first_open_hour(d.cut)),
            date_bin('5 minutes', upper(j.r), %epoch%) + interval '5 minutes'))) AS r
        FROM joined j
        JOIN flux.rollup_devices d ON d.device_id = j.device_id
        LEFT JOIN LATERAL (
            -- that it now has a next reading changes what the one before held
            SELECT b.time FROM flux.mg_bess_readings b WHERE b.device_id = j.device_id AND b.time < lower(j.r)
            ORDER BY b.time DESC LIMIT 1
        ) before ON true
        WHERE d.cut IS NULL OR upper(j.r) >= flux.rollup_first_open_hour(d.cut)
        GROUP BY j.device_id
    )
    SELECT array_agg((w.device_id, lower(w.r), upper(w.r), false)::flux.rollup_range) INTO spans FROM wide w;
    IF spans IS NULL THEN
        RETURN 0;
    END IF;

    DELETE FROM flux.mg_bess_readings_5m t USING unnest(spans) s
    WHERE t.device_id = s.device_id AND t.time_b >= s.lo AND t.time_b < s.hi;
    WITH written AS (
        INSERT INTO flux.mg_bess_readings_5m (
@level            %m%_avg, %m%_min, %m%_max,
            device_id, time_b, samples, soe_last, available_inverter_blocks_min,
            energy_charged, energy_discharged, command_seconds)
        SELECT
@level            sum(c.%m%_sum) / nullif(sum(c.%m%_n), 0), min(c.%m%_min), max(c.%m%_max),
            p.device_id, c.bucket, sum(c.samples), (max(c.last_soe))[2], min(c.blocks),
            sum(c.charged), sum(c.discharged),
            coalesce(jsonb_object_agg(c.command_source, c.seconds)
                FILTER (WHERE c.command_source IS NOT NULL AND c.seconds > 0), '{}')
        FROM unnest(flux.rollup_days(spans)) p
        CROSS JOIN LATERAL (
            SELECT h.bucket, h.command_source,
                count(*) FILTER (WHERE h.own) AS samples,
@level                sum(h.%m%::double precision) FILTER (WHERE h.own) AS %m%_sum, count(h.%m%) FILTER (WHERE h.own) AS %m%_n, min(h.%m%) FILTER (WHERE h.own) AS %m%_min, max(h.%m%) FILTER (WHERE h.own) AS %m%_max,
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
                                     ELSE least(b.time + hold, lead(b.time) OVER (ORDER BY b.time)) END AS held_until
                    FROM (
                        SELECT * FROM flux.mg_bess_readings b
                        WHERE b.device_id = p.device_id AND b.time >= p.lo - hold AND b.time < p.hi
                        UNION ALL
                        (SELECT * FROM flux.mg_bess_readings b
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
    RETURN buckets;
END $$;
