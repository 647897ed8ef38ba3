-- %table% from %source%: energy and seconds add up, means weigh by the time held.
-- (Rendered once for each coarser level, so that all levels have one definition.)

CREATE OR REPLACE FUNCTION flux.%function%(spans flux.rollup_range[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    whole flux.rollup_range[] := flux.rollup_whole(spans, '%width%');
BEGIN
    DELETE FROM flux.%table% t USING unnest(whole) w
    WHERE t.device_id = w.device_id AND t.time_b >= w.lo AND t.time_b < w.hi;
    INSERT INTO flux.%table% (
@level        %m%_avg, %m%_min, %m%_max, %m%_held, %m%_held_seconds,
        device_id, time_b, samples, soe_last, available_inverter_blocks_min,
        energy_charged, energy_discharged, energy_from, command_seconds)
    SELECT
@level        coalesce(f.%m%_held / nullif(f.%m%_held_seconds, 0), f.%m%_mean), f.%m%_min, f.%m%_max, f.%m%_held, f.%m%_held_seconds,
        w.device_id, f.bucket, f.samples, f.soe_last, f.blocks, f.charged, f.discharged, f.energy_from,
        (SELECT coalesce(jsonb_object_agg(k.source, k.seconds), '{}') FROM (
            SELECT e.key AS source, sum(e.value::double precision) AS seconds
            FROM unnest(f.commands) c CROSS JOIN LATERAL jsonb_each_text(c) e GROUP BY e.key) k)
    FROM unnest(whole) w
    CROSS JOIN LATERAL (
        SELECT date_bin('%width%', t.time_b, %epoch%) AS bucket,
@level            sum(t.%m%_held) AS %m%_held, sum(t.%m%_held_seconds) AS %m%_held_seconds, avg(t.%m%_avg) AS %m%_mean, min(t.%m%_min) AS %m%_min, max(t.%m%_max) AS %m%_max,
            sum(t.samples)::integer AS samples,
            (array_agg(t.soe_last ORDER BY t.time_b DESC) FILTER (WHERE t.soe_last IS NOT NULL))[1] AS soe_last,
            min(t.available_inverter_blocks_min) AS blocks,
            sum(t.energy_charged) AS charged, sum(t.energy_discharged) AS discharged,
            CASE WHEN min(t.energy_from) = max(t.energy_from) THEN min(t.energy_from) ELSE 'mixed' END AS energy_from,
            array_agg(t.command_seconds) AS commands
        FROM flux.%source% t
        WHERE t.device_id = w.device_id AND t.time_b >= w.lo AND t.time_b < w.hi
        GROUP BY 1
    ) f;
END $$;
