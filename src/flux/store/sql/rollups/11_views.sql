-- Totals and peaks by the site's local day and month, and half-hours by the numbers that the market gives them.
-- A local day has 23, 24 or 25 hours; in time zones that are half an hour off, days are made of half-hours.

CREATE OR REPLACE FUNCTION flux.settlement_date(at timestamptz) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$ SELECT (at AT TIME ZONE 'Europe/London')::date $$;
COMMENT ON FUNCTION flux.settlement_date(timestamptz) IS 'The GB local day that an instant is in.';

CREATE OR REPLACE FUNCTION flux.settlement_period(at timestamptz) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    SELECT 1 + floor(date_part('epoch', at - (date_trunc('day', at AT TIME ZONE 'Europe/London') AT TIME ZONE 'Europe/London')) / 1800)::integer
$$;
COMMENT ON FUNCTION flux.settlement_period(timestamptz) IS 'The half-hour of the GB local day, from 1; a day has 46, 48 or 50.';

-- A view is replaced where its columns stay, so that rights on it stay; made anew where a metric came or went, with its
-- rights and the views that people built on it. What cannot be made again (a view of a column that went) stops it all.
CREATE OR REPLACE FUNCTION flux.put_view(name text, query text, remark text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    dependent regclass;
    again     text[];
    one       text;
BEGIN
    BEGIN
        EXECUTE format('CREATE OR REPLACE VIEW flux.%I AS %s', name, query);
    EXCEPTION WHEN invalid_table_definition THEN
        again := array(SELECT flux.grants_of(format('flux.%I', name)::regclass))
              || array(SELECT flux.built_on(format('flux.%I', name)::regclass));
        FOR dependent IN SELECT d.name FROM flux.dependents_of(format('flux.%I', name)::regclass) d ORDER BY d.depth DESC LOOP
            EXECUTE format('DROP VIEW %s', dependent);
        END LOOP;
        EXECUTE format('DROP VIEW flux.%I', name);
        EXECUTE format('CREATE VIEW flux.%I AS %s', name, query);
        FOREACH one IN ARRAY again LOOP
            EXECUTE one;
        END LOOP;
    END;
    EXECUTE format('COMMENT ON VIEW flux.%I IS %L', name, remark);
END $$;

SELECT flux.put_view('mg_meter_local_hours', $view$
    SELECT g.site, s.timezone, t.time_b AT TIME ZONE s.timezone AS local_time, t.device_id, t.time_b, t.samples,
@counter        t.%m%_delta,
@demand        t.%m%_sum / nullif(coalesce(t.%m%_count, t.samples), 0) AS %m%_avg,
@demand        t.%m%_max_1m, t.%m%_max_1m_at, t.%m%_max_5m, t.%m%_max_5m_at,
        interval '1 hour' AS width
    FROM flux.mg_meter_readings_1h t
    JOIN flux.mg_device_registry g ON g.id = t.device_id JOIN flux.sites s ON s.site = g.site
    WHERE date_part('minute', t.time_b AT TIME ZONE s.timezone) = 0
    UNION ALL
    SELECT g.site, s.timezone, t.time_b AT TIME ZONE s.timezone AS local_time, t.device_id, t.time_b, t.samples,
@counter        t.%m%_delta,
@demand        t.%m%_sum / nullif(coalesce(t.%m%_count, t.samples), 0),
@demand        t.%m%_max_1m, t.%m%_max_1m_at, t.%m%_max_5m, t.%m%_max_5m_at,
        interval '30 minutes'
    FROM flux.mg_meter_readings_30m_intermediate t
    JOIN flux.mg_device_registry g ON g.id = t.device_id JOIN flux.sites s ON s.site = g.site
    WHERE date_part('minute', date_bin('1 hour', t.time_b, %epoch%) AT TIME ZONE s.timezone) <> 0
$view$, 'Hours of meters with the local time that they begin at; half-hours where the time zone is not whole hours from UTC.');

SELECT flux.put_view('mg_meter_daily_totals', $view$
    SELECT t.device_id, t.site, t.local_time::date AS day,
        date_part('epoch', ((t.local_time::date + 1)::timestamp AT TIME ZONE t.timezone) - (t.local_time::date::timestamp AT TIME ZONE t.timezone)) / 3600 AS hours,
        date_part('epoch', sum(t.width)) / 3600 AS hours_known,
@counter        sum(t.%m%_delta) AS %m%_delta,
        sum(t.samples) AS samples
    FROM flux.mg_meter_local_hours t GROUP BY t.device_id, t.site, t.timezone, t.local_time::date
$view$, 'What each counter counted on each local day of its site. hours: of the day, 23, 24 or 25; hours_known: those that have rows.');

SELECT flux.put_view('mg_meter_monthly_totals', $view$
    SELECT t.device_id, t.site, date_trunc('month', t.local_time)::date AS month,
        date_part('epoch', ((date_trunc('month', t.local_time) + interval '1 month') AT TIME ZONE t.timezone) - (date_trunc('month', t.local_time) AT TIME ZONE t.timezone)) / 3600 AS hours,
        date_part('epoch', sum(t.width)) / 3600 AS hours_known,
@counter        sum(t.%m%_delta) AS %m%_delta,
        sum(t.samples) AS samples
    FROM flux.mg_meter_local_hours t GROUP BY t.device_id, t.site, t.timezone, date_trunc('month', t.local_time)
$view$, 'What each counter counted in each local month of its site; see mg_meter_daily_totals.');

SELECT flux.put_view('mg_meter_daily_peaks', $view$
    SELECT t.device_id, t.site, t.local_time::date AS day,
@demand        max(t.%m%_max_1m) AS %m%_max_1m, (array_agg(t.%m%_max_1m_at ORDER BY t.%m%_max_1m DESC NULLS LAST, t.time_b))[1] AS %m%_max_1m_at,
@demand        max(t.%m%_max_5m) AS %m%_max_5m, (array_agg(t.%m%_max_5m_at ORDER BY t.%m%_max_5m DESC NULLS LAST, t.time_b))[1] AS %m%_max_5m_at,
@demand        max(t.%m%_avg) AS %m%_max_bucket, (array_agg(t.time_b ORDER BY t.%m%_avg DESC NULLS LAST, t.time_b))[1] AS %m%_max_bucket_at,
        sum(t.samples) AS samples
    FROM flux.mg_meter_local_hours t GROUP BY t.device_id, t.site, t.timezone, t.local_time::date
$view$, 'The largest 1-minute, 5-minute and hourly mean (…_max_bucket) of each local day, and when (UTC).');

SELECT flux.put_view('mg_meter_settlement_periods', $view$
    SELECT t.device_id, g.site, flux.settlement_date(t.time_b) AS settlement_date,
        flux.settlement_period(t.time_b) AS settlement_period, t.time_b, t.samples,
@counter        t.%m%_delta,
@level        t.%m%_avg, t.%m%_min, t.%m%_max,
@demand        t.%m%_max_1m, t.%m%_max_1m_at, t.%m%_max_5m, t.%m%_max_5m_at,
@weighted        t.%m%_weighted,
        t.irregular
    FROM flux.mg_meter_readings_30m_intermediate t JOIN flux.mg_device_registry g ON g.id = t.device_id
$view$, 'Half-hours of meters with their GB settlement date and period, 1 to 46, 48 or 50.');
