-- The decision ledger: what the controllers decided, from what and by which plan.

ALTER TABLE flux.time_series ADD COLUMN keep interval CHECK (keep > '0');
COMMENT ON COLUMN flux.time_series.keep IS 'How long a row is kept; null: not said here.';

CREATE TABLE flux.control_plans (
    hash       text PRIMARY KEY CHECK (hash <> ''),
    body       jsonb NOT NULL CHECK (jsonb_typeof(body) = 'object'),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE flux.control_plans IS 'Every plan that a kept decision was made by: the controller section of site.yaml with all defaults, as JSON.';

SELECT flux.create_time_series('control_decisions', $columns$
    time            timestamptz NOT NULL,
    device_id       uuid NOT NULL REFERENCES flux.mg_device_registry,
    plan            text NOT NULL DEFAULT '',
    id              uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at      timestamptz NOT NULL DEFAULT now(),
    target_power_kw double precision CHECK (target_power_kw > '-Infinity' AND target_power_kw < 'Infinity'),
    command_source  smallint CHECK (command_source >= 0),
    active          text[] NOT NULL,
    effective       text,
    limits          text[] NOT NULL,
    reason          text NOT NULL,
    stale           boolean NOT NULL,
    events          text[] NOT NULL,
    faults          text[] NOT NULL,
    plan_hash       text NOT NULL,
    inputs          jsonb NOT NULL CHECK (jsonb_typeof(inputs) = 'object'),
    PRIMARY KEY (device_id, plan, time)
$columns$, 'time', 'week');
UPDATE flux.time_series SET keep = '90 days' WHERE table_name = 'control_decisions';

COMMENT ON TABLE flux.control_decisions IS 'What controllers decided: kept when power, mode, a limit or staleness changes, and once a minute. Weekly partitions by time; one that arrives twice is stored once.';
COMMENT ON COLUMN flux.control_decisions.time IS 'When it was decided, by the edge''s clock.';
COMMENT ON COLUMN flux.control_decisions.device_id IS 'The first battery of the plan; with several the decision is about all of them together.';
COMMENT ON COLUMN flux.control_decisions.plan IS 'Empty: the plan that has the battery; else the name of a shadow plan, which commands nothing.';
COMMENT ON COLUMN flux.control_decisions.target_power_kw IS 'kW; + discharge, − charge. Null: nothing is sent.';
COMMENT ON COLUMN flux.control_decisions.command_source IS 'Of the mode whose target was taken, as in mg_bess_readings; null: idle, or nothing is sent.';
COMMENT ON COLUMN flux.control_decisions.active IS 'The modes that proposed, highest priority first.';
COMMENT ON COLUMN flux.control_decisions.effective IS 'The mode whose target was taken.';
COMMENT ON COLUMN flux.control_decisions.limits IS 'The limits that changed the figure: inverter, site_import, site_export, soe_min, soe_max.';
COMMENT ON COLUMN flux.control_decisions.stale IS 'A reading was missing or too old to decide on.';
COMMENT ON COLUMN flux.control_decisions.events IS 'What the decision itself found worth an alert.';
COMMENT ON COLUMN flux.control_decisions.faults IS 'What went wrong at the batteries in that cycle.';
COMMENT ON COLUMN flux.control_decisions.plan_hash IS 'The plan in control_plans.';
COMMENT ON COLUMN flux.control_decisions.inputs IS 'The frozen state of the cycle, with the ages of its measurements: enough to decide again.';

CREATE TABLE flux.rejected_decisions (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT now(),
    device_id   uuid NOT NULL,
    plan        text NOT NULL,
    time        timestamptz NOT NULL,
    reason      text NOT NULL CHECK (reason IN ('unknown_device', 'wrong_type', 'impossible_value', 'impossible_time')),
    detail      text NOT NULL,
    payload     text NOT NULL,
    CONSTRAINT rejected_decisions_once UNIQUE (device_id, plan, time, reason)
);
COMMENT ON TABLE flux.rejected_decisions IS 'Kept decisions that the database must refuse, whole, with the reason. One that is sent again is kept once.';
COMMENT ON COLUMN flux.rejected_decisions.payload IS 'The decision as sent, as JSON text.';
