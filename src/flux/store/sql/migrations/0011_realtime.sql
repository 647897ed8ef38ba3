-- What changed, and in which transaction: what realtime delivers, and what its cursors point into. The triggers that
-- write it are in sql/changes.sql, which is applied anew when it changes.

CREATE TABLE flux.changes (
    id         bigint GENERATED ALWAYS AS IDENTITY,
    txid       xid8 NOT NULL DEFAULT pg_current_xact_id(),
    time       timestamptz NOT NULL DEFAULT clock_timestamp(),
    table_name text NOT NULL,
    op         text NOT NULL CHECK (op IN ('INSERT', 'UPDATE', 'DELETE')),
    rows       bigint NOT NULL CHECK (rows > 0),
    devices    uuid[],
    times      timestamptz[],
    parts      text[],
    sites      text[],
    spans      boolean NOT NULL DEFAULT false,
    PRIMARY KEY (txid, id)
)
-- a day of statements comes and goes: its pages are to be used again soon
WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.2);
COMMENT ON TABLE flux.changes IS 'One row for each statement that changed a table which realtime follows: the keys of its rows, never the rows themselves. Kept for a day.';
COMMENT ON COLUMN flux.changes.id IS 'Order of the statements, of all transactions; those of one row are in the order in which they took effect.';
COMMENT ON COLUMN flux.changes.txid IS 'Its transaction: a cursor is a snapshot, and what is not visible in it is what came since.';
COMMENT ON COLUMN flux.changes.rows IS 'How many rows the statement changed.';
COMMENT ON COLUMN flux.changes.devices IS 'The nth row''s device; null: rows of this table have none.';
COMMENT ON COLUMN flux.changes.times IS 'The nth row''s time, where that is in its key.';
COMMENT ON COLUMN flux.changes.parts IS 'The rest of the nth row''s key, as text.';
COMMENT ON COLUMN flux.changes.sites IS 'The nth row''s site, before the change where it was there before, of tables that have one: who saw it may be told that it has gone.';
COMMENT ON COLUMN flux.changes.spans IS 'Too many rows to name each: devices and times hold the first and the last of each device, or nothing (any row may have changed).';

CREATE TABLE flux.change_log (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch   uuid NOT NULL DEFAULT gen_random_uuid(),
    trimmed xid8 NOT NULL DEFAULT '0'
);
COMMENT ON TABLE flux.change_log IS 'One row: what there is to know of flux.changes.';
COMMENT ON COLUMN flux.change_log.epoch IS 'A cursor of another log than this one is told apart by it.';
COMMENT ON COLUMN flux.change_log.trimmed IS 'The highest transaction of which rows have been deleted: a cursor must have seen all up to it.';
INSERT INTO flux.change_log DEFAULT VALUES;

CREATE FUNCTION flux.note_trimmed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE flux.change_log l SET trimmed = greatest(l.trimmed, o.highest)
    FROM (SELECT max(g.txid) AS highest FROM trimmed_changes g) o WHERE o.highest > l.trimmed;
    RETURN NULL;
END $$;
CREATE TRIGGER note_trimmed AFTER DELETE ON flux.changes
    REFERENCING OLD TABLE AS trimmed_changes FOR EACH STATEMENT EXECUTE FUNCTION flux.note_trimmed();

INSERT INTO flux.time_series (table_name, time_column, step, engine, keep) VALUES ('changes', 'time', 'day', 'rows', '1 day');
