-- Readings, and how a time series is kept. Which engine keeps it (native partitions here) is known to the two functions
-- create_time_series and ensure_partitions, and to nothing else.

CREATE TABLE flux.time_series (
    table_name  text PRIMARY KEY,
    time_column text NOT NULL,
    step        text NOT NULL CHECK (step IN ('day', 'week', 'month', 'year')),
    engine      text NOT NULL DEFAULT 'partitions' CHECK (engine IN ('partitions'))
);
COMMENT ON TABLE flux.time_series IS 'The tables that are kept in pieces of time, and how: one row for each.';
COMMENT ON COLUMN flux.time_series.step IS 'How much time one piece holds; weeks begin on Monday; all in UTC.';

CREATE FUNCTION flux.create_time_series(name text, columns text, time_column text, step text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    EXECUTE format('CREATE TABLE flux.%I (%s) PARTITION BY RANGE (%I)', name, columns, time_column);
    INSERT INTO flux.time_series (table_name, time_column, step) VALUES (name, time_column, step);
END $$;
COMMENT ON FUNCTION flux.create_time_series(text, text, text, text) IS
    'Makes table flux.<name> with these columns and constraints, kept in pieces of one step by time_column.';

CREATE FUNCTION flux.partition_name(table_name text, step text, instant timestamptz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    SELECT table_name || '_' || to_char(date_trunc(step, instant, 'UTC') AT TIME ZONE 'UTC', 'YYYYMMDD')
$$;
COMMENT ON FUNCTION flux.partition_name(text, text, timestamptz) IS 'The partition that holds an instant, e.g. mg_meter_readings_20260105.';

CREATE FUNCTION flux.ensure_partitions(parent regclass, from_time timestamptz, to_time timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET DateStyle = 'ISO'  -- bounds are written as text: in other styles a zone is a name, and names mean several zones
AS $$
DECLARE
    series    flux.time_series;
    start_at  timestamptz;
    end_at    timestamptz;
    piece     text;
    made      integer := 0;
BEGIN
    SELECT s.* INTO series FROM flux.time_series s
        JOIN pg_class c ON c.relname = s.table_name AND c.relnamespace = 'flux'::regnamespace WHERE c.oid = parent;
    IF NOT FOUND THEN
        RAISE EXCEPTION '% is not a time series of Flux', parent USING ERRCODE = 'wrong_object_type';
    END IF;
    IF NOT (isfinite(from_time) AND isfinite(to_time)) THEN
        RAISE EXCEPTION 'partitions are made for a span that begins and ends' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- One at a time: two sessions that meet a new week would both try to make its partition.
    PERFORM pg_advisory_xact_lock(hashtext('flux.ensure_partitions'), parent::oid::integer);
    start_at := date_trunc(series.step, from_time, 'UTC');
    WHILE start_at <= to_time LOOP
        end_at := (start_at AT TIME ZONE 'UTC' + ('1 ' || series.step)::interval) AT TIME ZONE 'UTC';
        piece := flux.partition_name(series.table_name, series.step, start_at);
        IF to_regclass(format('flux.%I', piece)) IS NULL THEN
            -- Made apart and then attached: CREATE … PARTITION OF would lock out every reader and writer.
            EXECUTE format('CREATE TABLE flux.%I (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', piece, parent);
            EXECUTE format('ALTER TABLE %s ATTACH PARTITION flux.%I FOR VALUES FROM (%L) TO (%L)',
                           parent, piece, start_at, end_at);
            made := made + 1;
        END IF;
        start_at := end_at;
    END LOOP;
    RETURN made;
END $$;
COMMENT ON FUNCTION flux.ensure_partitions(regclass, timestamptz, timestamptz) IS
    'Makes the partitions that hold from_time … to_time (both included) where they are missing; returns how many. Takes no lock that stops readers or writers.';

SELECT flux.create_time_series('mg_bess_readings', $columns$
    time                      timestamptz NOT NULL,
    device_id                 uuid NOT NULL REFERENCES flux.mg_device_registry,
    id                        uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at                timestamptz NOT NULL DEFAULT now(),
    soe                       real CHECK (soe >= -0.5 AND soe <= 100.5),
    target_power              real CHECK (target_power > '-Infinity' AND target_power < 'Infinity'),
    available_inverter_blocks smallint CHECK (available_inverter_blocks >= 0),
    command_source            smallint CHECK (command_source >= 0),
    PRIMARY KEY (device_id, time)
$columns$, 'time', 'week');

SELECT flux.create_time_series('mg_meter_readings', $columns$
    time                           timestamptz NOT NULL,
    device_id                      uuid NOT NULL REFERENCES flux.mg_device_registry,
    id                             uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at                     timestamptz NOT NULL DEFAULT now(),
    frequency                      real CHECK (frequency > '-Infinity' AND frequency < 'Infinity'),
    voltage_line_average           real CHECK (voltage_line_average > '-Infinity' AND voltage_line_average < 'Infinity'),
    current_phase_a                real CHECK (current_phase_a > '-Infinity' AND current_phase_a < 'Infinity'),
    current_phase_b                real CHECK (current_phase_b > '-Infinity' AND current_phase_b < 'Infinity'),
    current_phase_c                real CHECK (current_phase_c > '-Infinity' AND current_phase_c < 'Infinity'),
    current_phase_average          real CHECK (current_phase_average > '-Infinity' AND current_phase_average < 'Infinity'),
    power_phase_a_active           real CHECK (power_phase_a_active > '-Infinity' AND power_phase_a_active < 'Infinity'),
    power_phase_b_active           real CHECK (power_phase_b_active > '-Infinity' AND power_phase_b_active < 'Infinity'),
    power_phase_c_active           real CHECK (power_phase_c_active > '-Infinity' AND power_phase_c_active < 'Infinity'),
    power_total_active             real CHECK (power_total_active > '-Infinity' AND power_total_active < 'Infinity'),
    power_total_reactive           real CHECK (power_total_reactive > '-Infinity' AND power_total_reactive < 'Infinity'),
    power_total_apparent           real CHECK (power_total_apparent > '-Infinity' AND power_total_apparent < 'Infinity'),
    power_factor_total             real CHECK (power_factor_total > '-Infinity' AND power_factor_total < 'Infinity'),
    energy_imported_active         double precision CHECK (energy_imported_active >= 0 AND energy_imported_active < 'Infinity'),
    energy_exported_active         double precision CHECK (energy_exported_active >= 0 AND energy_exported_active < 'Infinity'),
    energy_imported_phase_a_active double precision CHECK (energy_imported_phase_a_active >= 0 AND energy_imported_phase_a_active < 'Infinity'),
    energy_exported_phase_a_active double precision CHECK (energy_exported_phase_a_active >= 0 AND energy_exported_phase_a_active < 'Infinity'),
    energy_imported_phase_b_active double precision CHECK (energy_imported_phase_b_active >= 0 AND energy_imported_phase_b_active < 'Infinity'),
    energy_exported_phase_b_active double precision CHECK (energy_exported_phase_b_active >= 0 AND energy_exported_phase_b_active < 'Infinity'),
    energy_imported_phase_c_active double precision CHECK (energy_imported_phase_c_active >= 0 AND energy_imported_phase_c_active < 'Infinity'),
    energy_exported_phase_c_active double precision CHECK (energy_exported_phase_c_active >= 0 AND energy_exported_phase_c_active < 'Infinity'),
    energy_imported_reactive       double precision CHECK (energy_imported_reactive >= 0 AND energy_imported_reactive < 'Infinity'),
    energy_exported_reactive       double precision CHECK (energy_exported_reactive >= 0 AND energy_exported_reactive < 'Infinity'),
    energy_imported_apparent       double precision CHECK (energy_imported_apparent >= 0 AND energy_imported_apparent < 'Infinity'),
    energy_exported_apparent       double precision CHECK (energy_exported_apparent >= 0 AND energy_exported_apparent < 'Infinity'),
    PRIMARY KEY (device_id, time)
$columns$, 'time', 'week');

COMMENT ON TABLE flux.mg_bess_readings IS 'What was polled from batteries. Weekly partitions by time; a reading that arrives twice is stored once.';
COMMENT ON COLUMN flux.mg_bess_readings.time IS 'When it was polled, to the microsecond.';
COMMENT ON COLUMN flux.mg_bess_readings.created_at IS 'When the platform stored it.';
COMMENT ON COLUMN flux.mg_bess_readings.soe IS 'State of energy, % of capacity_kwh.';
COMMENT ON COLUMN flux.mg_bess_readings.target_power IS 'kW; + discharge, − charge.';
COMMENT ON COLUMN flux.mg_bess_readings.command_source IS 'Flux''s code of the decision that the device last acknowledged: 0 manual, 1 NIV chase, 2 dynamic peak, 3 import avoidance, 4 export avoidance, 5 Axle, 6 to SoE, 7 optimiser.';
COMMENT ON TABLE flux.mg_meter_readings IS 'What was polled from meters. Weekly partitions by time; a reading that arrives twice is stored once. Null: not measured.';
COMMENT ON COLUMN flux.mg_meter_readings.time IS 'When it was polled, to the microsecond.';
COMMENT ON COLUMN flux.mg_meter_readings.created_at IS 'When the platform stored it.';
COMMENT ON COLUMN flux.mg_meter_readings.power_total_active IS 'kW; + flowing from the grid side into what it meters.';
COMMENT ON COLUMN flux.mg_meter_readings.energy_imported_active IS 'kWh, cumulative: a counter.';
