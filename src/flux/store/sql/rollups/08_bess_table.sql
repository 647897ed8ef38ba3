-- %table%: batteries, one row for each device and bucket of %width%.

CREATE TABLE IF NOT EXISTS flux.%table% (
    device_id uuid NOT NULL,
    time_b    timestamptz NOT NULL,
    samples   integer NOT NULL,
    PRIMARY KEY (device_id, time_b)
);
ALTER TABLE flux.%table%
@level    ADD COLUMN IF NOT EXISTS %m%_avg real,
@level    ADD COLUMN IF NOT EXISTS %m%_min real,
@level    ADD COLUMN IF NOT EXISTS %m%_max real,
    ADD COLUMN IF NOT EXISTS soe_last real,
    ADD COLUMN IF NOT EXISTS available_inverter_blocks_min smallint,
    ADD COLUMN IF NOT EXISTS energy_charged double precision NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS energy_discharged double precision NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS energy_from text NOT NULL DEFAULT 'target_power',
    ADD COLUMN IF NOT EXISTS command_seconds jsonb NOT NULL DEFAULT '{}',
@level    ADD COLUMN IF NOT EXISTS %m%_held double precision,
@level{, }    ADD COLUMN IF NOT EXISTS %m%_held_seconds double precision
;
COMMENT ON TABLE flux.%table% IS
    'Batteries, %width%: …_avg weighed by time, …_min and …_max of the samples, energy, and what commanded it.';
COMMENT ON COLUMN flux.%table%.time_b IS 'Start of the bucket; it ends %width% later.';
COMMENT ON COLUMN flux.%table%.samples IS 'Readings in the bucket; 0: what was read before it still held, or only the battery''s meter was read.';
COMMENT ON COLUMN flux.%table%.soe_last IS '%, the last sample of the bucket.';
COMMENT ON COLUMN flux.%table%.energy_charged IS 'kWh that went in, never negative.';
COMMENT ON COLUMN flux.%table%.energy_discharged IS 'kWh that came out, never negative.';
COMMENT ON COLUMN flux.%table%.energy_from IS 'meter: the counters of the battery''s own storage meter; target_power: that, held until the next reading; mixed: some of the bucket''s time the one, some the other.';
COMMENT ON COLUMN flux.%table%.command_seconds IS 'Seconds under each command source, e.g. {"3": 240, "0": 60}.';
@level COMMENT ON COLUMN flux.%table%.%m%_avg IS 'Each reading weighs by how long it held; where none held yet, the mean of the samples.';
@level COMMENT ON COLUMN flux.%table%.%m%_held IS 'Sum of value × seconds held, so that coarser levels weigh right.';
SELECT flux.keep_as_time_series('%table%', 'time_b', '%step%', %keep%, '%made_from%');
