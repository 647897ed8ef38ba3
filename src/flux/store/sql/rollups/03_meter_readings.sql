-- %view%: the readings of meters, without the values whose mark stands.
-- (Rendered twice: what is judged leaves out what is known to be false on its own, what is kept all that is marked.)

-- (dropped in 03_anchors.sql, with the view that it is built on)
CREATE VIEW flux.%view% AS
SELECT r.device_id,
@level    CASE WHEN k.metrics IS NULL OR '%m%' <> ALL (k.metrics) THEN r.%m% END AS %m%,
@counter    CASE WHEN k.metrics IS NULL OR '%m%' <> ALL (k.metrics) THEN r.%m% END AS %m%,
    r.time
FROM flux.rollup_meter_readings r
LEFT JOIN LATERAL (
    SELECT array_agg(m.metric) AS metrics FROM flux.reading_marks m
    WHERE m.device_id = r.device_id AND m.time = r.time AND m.lifted_at IS NULL AND m.reason IN (%but%)
) k ON true;
COMMENT ON VIEW flux.%view% IS 'Readings of meters with null for each value that is marked.';
