-- (Rendered twice: …_marked leaves out values that are marked.)

-- The nearest reading before a time such that each counter has one at or after it: the last full one, or the oldest of
-- each counter's last. Not searched beyond the limit: readings further apart are not joined.
CREATE OR REPLACE FUNCTION flux.rollup_reading_before%marked%(of_device uuid, at timestamptz, floor timestamptz, counters text[])
RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
DECLARE
    newest timestamptz;
    filled integer;
BEGIN
    SELECT r.time, num_nonnulls(
@counter{, }        r.%m%
    ) INTO newest, filled FROM flux.%readings% r
    WHERE r.device_id = of_device AND r.time < at AND r.time >= floor ORDER BY r.time DESC LIMIT 1;
    IF newest IS NULL OR filled = cardinality(counters) THEN
        RETURN newest;
    END IF;
    RETURN least(
@counter{, }        CASE WHEN '%m%' = ANY (counters) THEN (SELECT r.time FROM flux.%readings% r WHERE r.device_id = of_device AND r.time < at AND r.time >= floor AND r.%m% IS NOT NULL ORDER BY r.time DESC LIMIT 1) END
    );
END $$;

CREATE OR REPLACE FUNCTION flux.rollup_reading_after%marked%(of_device uuid, at timestamptz, ceiling timestamptz, counters text[])
RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
DECLARE
    oldest timestamptz;
    filled integer;
BEGIN
    SELECT r.time, num_nonnulls(
@counter{, }        r.%m%
    ) INTO oldest, filled FROM flux.%readings% r
    WHERE r.device_id = of_device AND r.time > at AND r.time <= ceiling ORDER BY r.time LIMIT 1;
    IF oldest IS NULL OR filled = cardinality(counters) THEN
        RETURN oldest;
    END IF;
    RETURN greatest(
@counter{, }        CASE WHEN '%m%' = ANY (counters) THEN (SELECT r.time FROM flux.%readings% r WHERE r.device_id = of_device AND r.time > at AND r.time <= ceiling AND r.%m% IS NOT NULL ORDER BY r.time LIMIT 1) END
    );
END $$;
