-- %table% from %source%: energy adds up, means weigh by the number of samples, peaks are the largest with their time.
-- (Rendered once for each coarser level, so that all levels have one definition.)

CREATE OR REPLACE FUNCTION flux.%function%(spans flux.rollup_range[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    whole flux.rollup_range[] := flux.rollup_whole(spans, '%width%');
BEGIN
    DELETE FROM flux.%table% t USING unnest(whole) w
    WHERE t.device_id = w.device_id AND t.time_b >= w.lo AND t.time_b < w.hi;
    INSERT INTO flux.%table% (
@counter        %m%_min, %m%_delta,
@level        %m%_sum, %m%_avg, %m%_min, %m%_max, %m%_count,
@demand        %m%_max_1m, %m%_max_1m_at, %m%_max_5m, %m%_max_5m_at, %m%_abs_sum,
@weighted        %m%_weighted, %m%_weighted_sum, %m%_weight,
        device_id, time_b, samples, irregular)
    SELECT
@counter        f.%m%_min, f.%m%_delta,
@level        f.%m%_sum, f.%m%_sum / nullif(f.%m%_count, 0), f.%m%_min, f.%m%_max, nullif(f.%m%_count, f.samples),
@demand        f.%m%_max_1m, f.%m%_max_1m_at, f.%m%_max_5m, f.%m%_max_5m_at, f.%m%_abs_sum,
@weighted        f.%m%_weighted_sum / nullif(f.%m%_weight, 0), f.%m%_weighted_sum, f.%m%_weight,
        w.device_id, f.bucket, f.samples, f.irregular
    FROM unnest(whole) w
    CROSS JOIN LATERAL (
        SELECT date_bin('%width%', t.time_b, %epoch%) AS bucket,
@counter            min(t.%m%_min) AS %m%_min, sum(t.%m%_delta) AS %m%_delta,
@level            sum(t.%m%_sum) AS %m%_sum, min(t.%m%_min) AS %m%_min, max(t.%m%_max) AS %m%_max, sum(coalesce(t.%m%_count, t.samples))::integer AS %m%_count,
@demand            max(t.%m%_max_1m) AS %m%_max_1m, (array_agg(t.%m%_max_1m_at ORDER BY t.%m%_max_1m DESC NULLS LAST, t.%m%_max_1m_at))[1] AS %m%_max_1m_at,
@demand            max(t.%m%_max_5m) AS %m%_max_5m, (array_agg(t.%m%_max_5m_at ORDER BY t.%m%_max_5m DESC NULLS LAST, t.%m%_max_5m_at))[1] AS %m%_max_5m_at,
@demand            sum(t.%m%_abs_sum) AS %m%_abs_sum,
@weighted            sum(t.%m%_weighted_sum) AS %m%_weighted_sum, sum(t.%m%_weight) AS %m%_weight,
            sum(t.samples)::integer AS samples, bool_or(t.irregular) AS irregular
        FROM flux.%source% t
        WHERE t.device_id = w.device_id AND t.time_b >= w.lo AND t.time_b < w.hi
        GROUP BY 1
    ) f;
END $$;
