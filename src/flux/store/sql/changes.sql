-- Noting what changed, for realtime: one row of flux.changes for each statement, with the keys of its rows.
-- Statement-level triggers with transition tables, as those of the rollups; they run as their owner, so that whoever may
-- write a table need not be able to write the log. Lines from "for each table" on are repeated for each table followed.

SET LOCAL client_min_messages = warning;

CREATE OR REPLACE FUNCTION flux.note_change(
    of_table text, of_op text, how_many bigint,
    of_devices uuid[] DEFAULT NULL, of_times timestamptz[] DEFAULT NULL, of_parts text[] DEFAULT NULL,
    of_sites text[] DEFAULT NULL, in_spans boolean DEFAULT false
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF how_many > 0 THEN
        INSERT INTO flux.changes (table_name, op, rows, devices, times, parts, sites, spans)
        VALUES (of_table, of_op, how_many, of_devices, of_times, of_parts, of_sites, in_spans);
    END IF;
END $$;
COMMENT ON FUNCTION flux.note_change(text, text, bigint, uuid[], timestamptz[], text[], text[], boolean) IS
    'Writes one row of flux.changes, if any row changed.';

-- From before its commit to after it, a transaction that notifies keeps every other one that notifies from committing:
-- eight writers of single readings came to a fifth of what they do without. So one notifies, and who commits in that very
-- moment does not: for those the reader looks again a little later.
CREATE OR REPLACE FUNCTION flux.tell_listeners() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_try_advisory_xact_lock(hashtext('flux_changes'), 0) THEN
        PERFORM pg_notify('flux_changes', '');
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION flux.tell_listeners() IS 'At a commit: tells listeners of channel flux_changes to look, unless another one that commits is about to.';
DROP TRIGGER IF EXISTS tell_listeners ON flux.changes;
-- (at the commit: a lock that is taken earlier would silence all others for as long as its transaction is open)
CREATE CONSTRAINT TRIGGER tell_listeners AFTER INSERT ON flux.changes
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION flux.tell_listeners();

CREATE OR REPLACE FUNCTION flux.note_emptied() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM flux.note_change(tg_table_name, 'DELETE', 1, in_spans => true);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION flux.note_emptied() IS 'Rows went and nobody knows which: after TRUNCATE, and DELETE from readings in a hypertable.';
