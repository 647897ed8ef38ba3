-- Market data: newest value and history kept in step, whoever writes; how long a value holds.
-- What the triggers call is in sql/market.sql, which is applied anew when it changes.

ALTER TABLE flux.market_data_types ADD COLUMN holds interval NOT NULL DEFAULT '30 minutes' CHECK (holds > '0');
COMMENT ON COLUMN flux.market_data_types.holds IS 'How long a value is in force after its time, at most; a later value ends it sooner. Of a settlement period: 30 minutes.';

ALTER TABLE flux.market_data ADD COLUMN known_at timestamptz CHECK (isfinite(known_at)), ADD CHECK (isfinite(time));
COMMENT ON COLUMN flux.market_data.known_at IS 'Since when this value is known; null in an INSERT, or left as it is in an UPDATE: since now.';
ALTER TABLE flux.market_data_history
    ADD COLUMN repeated_at timestamptz[] NOT NULL DEFAULT '{}', ADD CHECK (isfinite(known_at)), ADD CHECK (isfinite(time));
COMMENT ON COLUMN flux.market_data_history.known_at IS 'Since when this value was known; until the next row of the same type, site and time.';
COMMENT ON COLUMN flux.market_data_history.repeated_at IS 'When a source stated the same value again: no news, but needed to place a value that arrives late between two of them.';
CREATE INDEX market_data_time_idx ON flux.market_data (type, time);
CREATE INDEX market_data_history_time_idx ON flux.market_data_history (type, time, known_at);

-- Values that were there before there was a history of them are known since now: nobody can tell since when.
INSERT INTO flux.market_data_history (type, site, time, value, metadata)
    SELECT d.type, d.site, d.time, d.value, d.metadata FROM flux.market_data d
    WHERE NOT EXISTS (SELECT FROM flux.market_data_history h
        WHERE h.type = d.type AND h.time = d.time AND h.site IS NOT DISTINCT FROM d.site);
UPDATE flux.market_data d SET known_at = (SELECT max(h.known_at) FROM flux.market_data_history h
    WHERE h.type = d.type AND h.time = d.time AND h.site IS NOT DISTINCT FROM d.site);

-- Only the function that records may rewrite history, and it never drops a value or when it was stated.
DROP TRIGGER append_only ON flux.market_data_history;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON flux.market_data_history FOR EACH STATEMENT
    WHEN (current_setting('flux.market_recording', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION flux.refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON flux.market_data_history
    FOR EACH STATEMENT EXECUTE FUNCTION flux.refuse_change();

CREATE FUNCTION flux.announce_market() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    PERFORM pg_notify('flux_market', tg_table_name);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION flux.announce_market() IS 'Tells listeners of channel flux_market which table changed; they read what changed.';
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON flux.market_data
    FOR EACH STATEMENT EXECUTE FUNCTION flux.announce_market();
