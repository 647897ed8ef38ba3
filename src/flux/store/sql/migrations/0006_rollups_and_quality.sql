-- What is known of the values that a kind of device can report; values that are left out of rollups; rulings of people
-- on what a counter did.

CREATE TABLE flux.template_metrics (
    template   text NOT NULL,
    metric     text NOT NULL,
    lowest     double precision,
    highest    double precision,
    width      double precision CHECK (width > 0),
    resolution double precision CHECK (resolution > 0),
    ratio      text CHECK (ratio IN ('vt', 'ct', 'vt_ct')),
    signed     boolean NOT NULL DEFAULT false,
    PRIMARY KEY (template, metric)
);
COMMENT ON TABLE flux.template_metrics IS 'What a template says of each metric: filled from the templates themselves, never by hand.';
COMMENT ON COLUMN flux.template_metrics.lowest IS 'A value below this is not plausible; null: no check. In the metric''s unit, after transformer ratios.';
COMMENT ON COLUMN flux.template_metrics.width IS 'Where a counter begins again at 0: the values that its register can hold × scale. Null: not known. Before transformer ratios.';
COMMENT ON COLUMN flux.template_metrics.resolution IS 'The smallest step of the register. Before transformer ratios.';
COMMENT ON COLUMN flux.template_metrics.ratio IS 'Which of a device''s transformer ratios multiply width and resolution.';
COMMENT ON COLUMN flux.template_metrics.signed IS 'Its sign turns round on a meter with invert: true.';

CREATE TABLE flux.template_metrics_source (
    template text PRIMARY KEY,
    hash     text NOT NULL
);
COMMENT ON TABLE flux.template_metrics_source IS 'Which version of device_templates the rows of template_metrics come from.';

CREATE TABLE flux.reading_marks (
    device_id   uuid NOT NULL REFERENCES flux.mg_device_registry ON DELETE CASCADE,
    time        timestamptz NOT NULL,
    metric      text NOT NULL,
    reason      text NOT NULL CHECK (reason IN ('range', 'spike', 'stuck', 'operator')),
    value       double precision,
    marked_at   timestamptz NOT NULL DEFAULT now(),
    marked_by   text NOT NULL DEFAULT current_user,
    note        text,
    lifted_at   timestamptz,
    lifted_by   text,
    lift_note   text,
    PRIMARY KEY (device_id, time, metric),
    CHECK ((lifted_at IS NULL) = (lifted_by IS NULL))
);
CREATE INDEX reading_marks_standing_idx ON flux.reading_marks (device_id, time) WHERE lifted_at IS NULL;
COMMENT ON TABLE flux.reading_marks IS 'Values that are stored and left out of rollups, one row for each value: `flux quality list`.';
COMMENT ON COLUMN flux.reading_marks.reason IS
    'range: outside what the template calls plausible; spike: a counter rose by more than the device can carry, and came back; stuck: a power that stayed bit-equal while the counters say otherwise; operator: a person marked it.';
COMMENT ON COLUMN flux.reading_marks.value IS 'What was marked. A lifted mark holds for this value only: one that is corrected is judged again.';
COMMENT ON COLUMN flux.reading_marks.lifted_at IS 'Null: the mark stands. Otherwise the value is in the rollups again.';

CREATE TABLE flux.counter_rulings (
    device_id  uuid NOT NULL REFERENCES flux.mg_device_registry ON DELETE CASCADE,
    counter    text NOT NULL,
    time       timestamptz NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('as_judged', 'restart', 'rollover', 'correction', 'rise', 'step')),
    step       double precision CHECK (step >= 0 AND step < 'Infinity'),
    decided_by text NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT now(),
    reason     text,
    PRIMARY KEY (device_id, counter, time),
    CHECK ((kind = 'step') = (step IS NOT NULL))
);
COMMENT ON TABLE flux.counter_rulings IS 'What a person said a counter did at a reading, in place of what Flux made of it: `flux counters accept|reject`.';
COMMENT ON COLUMN flux.counter_rulings.time IS 'As in counter_events: the first reading below the last good one, or above what can be carried.';
COMMENT ON COLUMN flux.counter_rulings.kind IS
    'as_judged: Flux was right, no more review; restart: it began at zero; rollover: it passed the end of its register; correction: nothing is counted; rise: all of it is counted; step: so much is counted.';

CREATE TABLE flux.counter_ruling_history (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id  uuid NOT NULL,
    counter    text NOT NULL,
    time       timestamptz NOT NULL,
    kind       text NOT NULL,
    step       double precision,
    decided_by text NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT now(),
    reason     text
);
COMMENT ON TABLE flux.counter_ruling_history IS 'Every ruling that was ever made; kind withdrawn: back to what Flux makes of it. Append-only.';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON flux.counter_ruling_history
    FOR EACH STATEMENT EXECUTE FUNCTION flux.refuse_change();

-- rollups that were computed before have none of the new columns
DO $do$
BEGIN
    IF to_regprocedure('flux.note_rollup_change(uuid, timestamptz, timestamptz)') IS NOT NULL THEN
        PERFORM flux.note_rollup_change(r.id) FROM flux.mg_device_registry r;
    END IF;
END $do$;
