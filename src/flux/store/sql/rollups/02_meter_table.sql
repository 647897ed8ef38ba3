-- %table%: one row for each device and bucket of %width%.

CREATE TABLE IF NOT EXISTS flux.%table% (
    device_id uuid NOT NULL,
    time_b    timestamptz NOT NULL,
    samples   integer NOT NULL,
    irregular boolean NOT NULL DEFAULT false,
    PRIMARY KEY (device_id, time_b)
);
ALTER TABLE flux.%table%
@counter    ADD COLUMN IF NOT EXISTS %m%_min double precision,
@counter    ADD COLUMN IF NOT EXISTS %m%_delta double precision,
@level    ADD COLUMN IF NOT EXISTS %m%_sum double precision,
@demand    ADD COLUMN IF NOT EXISTS %m%_max_1m_at timestamptz,
@demand    ADD COLUMN IF NOT EXISTS %m%_max_5m_at timestamptz,
@demand    ADD COLUMN IF NOT EXISTS %m%_abs_sum double precision,
@weighted    ADD COLUMN IF NOT EXISTS %m%_weighted_sum double precision,
@weighted    ADD COLUMN IF NOT EXISTS %m%_weight double precision,
    -- (8 bytes first, 4 after: between them rows would be padded)
@level    ADD COLUMN IF NOT EXISTS %m%_avg real,
@level    ADD COLUMN IF NOT EXISTS %m%_min real,
@level    ADD COLUMN IF NOT EXISTS %m%_max real,
@level    ADD COLUMN IF NOT EXISTS %m%_count integer,
@demand    ADD COLUMN IF NOT EXISTS %m%_max_1m real,
@demand    ADD COLUMN IF NOT EXISTS %m%_max_5m real,
@weighted    ADD COLUMN IF NOT EXISTS %m%_weighted real,
    ALTER COLUMN irregular SET DEFAULT false;
COMMENT ON TABLE flux.%table% IS
    'Meters, %width%: …_avg, …_min, …_max of the samples; each counter''s …_delta is what it counted in the bucket (null: not known), …_min its lowest good reading (null where samples = 0).';
COMMENT ON COLUMN flux.%table%.time_b IS 'Start of the bucket; it ends %width% later.';
COMMENT ON COLUMN flux.%table%.samples IS 'Readings in the bucket; 0: it lies in a gap and has its share of what was counted over it.';
COMMENT ON COLUMN flux.%table%.irregular IS 'A counter fell, was missing or had a long gap at or beside this bucket: its energy was worked out reading by reading.';
@level COMMENT ON COLUMN flux.%table%.%m%_sum IS 'Sum of the samples, so that coarser levels weigh right.';
@level COMMENT ON COLUMN flux.%table%.%m%_count IS 'How many samples had this metric; null: all of them.';
@demand COMMENT ON COLUMN flux.%table%.%m%_max_1m IS 'Peak demand: the largest mean of one UTC minute, whose start is …_max_1m_at; the first one where several are as large.';
@demand COMMENT ON COLUMN flux.%table%.%m%_max_5m IS 'The largest mean of one 5-minute bucket, whose start is …_max_5m_at.';
@demand COMMENT ON COLUMN flux.%table%.%m%_abs_sum IS 'Sum of the samples'' magnitudes, whichever way the power flowed.';
@weighted COMMENT ON COLUMN flux.%table%.%m%_weighted IS 'Mean weighed by energy: each sample by the magnitude of %w% beside it. Null where no power flowed.';
@weighted COMMENT ON COLUMN flux.%table%.%m%_weighted_sum IS 'Sum of sample × |%w%|, so that coarser levels weigh right.';
@weighted COMMENT ON COLUMN flux.%table%.%m%_weight IS 'Sum of |%w%| over the samples that have both.';
SELECT flux.keep_as_time_series('%table%', 'time_b', '%step%', %keep%, '%made_from%');
