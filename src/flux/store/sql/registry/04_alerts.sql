-- What somebody should know now, looked up in the tables: whoever wrote them, it is alerted alike.

CREATE OR REPLACE FUNCTION flux.alert_conditions(instant timestamptz DEFAULT now())
RETURNS TABLE (key text, severity text, site text, text text)
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
SELECT 'failed:' || r.id AS key, 'warning' AS severity, r.site,
       r.name || ' has failed its test' || coalesce(': ' || e.reason, '') AS text
FROM flux.mg_device_registry r CROSS JOIN LATERAL (
    SELECT e.reason FROM flux.device_events e WHERE e.device_id = r.id ORDER BY e.id DESC LIMIT 1) e
WHERE r.state = 'failed'
UNION ALL
SELECT 'overdue:' || r.id, 'warning', r.site,
       r.name || ' is in maintenance longer than planned'
       || coalesce(': ' || (r.metadata #>> '{maintenance,reason}'), '')
FROM flux.mg_device_registry r
WHERE r.state = 'maintenance' AND flux.maintenance_end(r.metadata) < instant
UNION ALL
SELECT h.status || ':' || r.id, CASE h.status WHEN 'offline' THEN 'critical' ELSE 'warning' END, r.site,
       r.name || CASE h.status WHEN 'offline' THEN ' does not answer' WHEN 'flapping' THEN ' comes and goes'
                               ELSE ' answers slowly or with errors' END
FROM flux.mg_device_registry r CROSS JOIN LATERAL (
    SELECT CASE WHEN h.diagnostics -> 'flapping' = 'true' THEN 'flapping' ELSE h.status END AS status, h.timestamp
    FROM flux.device_health h WHERE h.device_id = r.id ORDER BY h.timestamp DESC LIMIT 1) h
WHERE r.active AND r.state IN ('active', 'testing') AND h.status <> 'online'
UNION ALL
SELECT 'job:' || j.name, 'warning', NULL, 'the worker''s job ' || j.name || ' fails: ' || j.failure
FROM flux.worker_jobs j WHERE j.failure IS NOT NULL
UNION ALL
SELECT 'silent:' || r.site, 'critical', r.site, 'nothing was heard of site ' || r.site || ' for over 10 minutes'
FROM flux.mg_device_registry r
WHERE r.active AND r.state = 'active'
  AND EXISTS (SELECT FROM flux.device_health h WHERE h.device_id = r.id AND h.timestamp > instant - interval '1 day')
GROUP BY r.site
HAVING max((SELECT max(h.timestamp) FROM flux.device_health h WHERE h.device_id = r.id)) < instant - interval '10 minutes'
$$;
COMMENT ON FUNCTION flux.alert_conditions(timestamptz) IS 'The conditions that are alerted while they hold; the worker keeps flux.alerts by them.';
