-- What the records of health come to.

CREATE OR REPLACE FUNCTION flux.device_uptime(
    start_time timestamptz DEFAULT now() - interval '24 hours', end_time timestamptz DEFAULT now(), device_ids uuid[] DEFAULT NULL
) RETURNS TABLE (device_id uuid, online_h double precision, degraded_h double precision, offline_h double precision,
                 unknown_h double precision, uptime double precision)
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    SELECT r.id, s.online, s.degraded, s.offline,
           greatest(0, extract(epoch FROM end_time - start_time)::double precision / 3600 - s.online - s.degraded - s.offline),
           (s.online + s.degraded) / nullif(s.online + s.degraded + s.offline, 0)
    FROM flux.mg_device_registry r CROSS JOIN LATERAL (
        SELECT coalesce(sum(h.hours) FILTER (WHERE h.status = 'online'), 0) AS online,
               coalesce(sum(h.hours) FILTER (WHERE h.status = 'degraded'), 0) AS degraded,
               coalesce(sum(h.hours) FILTER (WHERE h.status = 'offline'), 0) AS offline
        FROM (
            SELECT w.status, extract(epoch FROM least(w.until, end_time) - greatest(w.timestamp, start_time))::double precision / 3600 AS hours
            FROM (
                -- a status holds until the next record, at most 15 minutes: an edge that is away records nothing
                SELECT x.status, x.timestamp,
                       least(lead(x.timestamp, 1, 'infinity') OVER (ORDER BY x.timestamp), x.timestamp + interval '15 minutes') AS until
                FROM flux.device_health x
                WHERE x.device_id = r.id AND x.timestamp > start_time - interval '15 minutes' AND x.timestamp < end_time
            ) w
            WHERE w.until > start_time
        ) h
    ) s
    WHERE r.state <> 'decommissioned' AND (device_ids IS NULL OR r.id = ANY(device_ids))
$$;
COMMENT ON FUNCTION flux.device_uptime(timestamptz, timestamptz, uuid[]) IS
    'Hours online, degraded and offline of each device in [start_time, end_time); unknown: no record covers it. uptime: online and degraded of all that is known.';
