-- What a device's metadata may hold, whoever writes it. The rules are the JSON Schema of flux.model, put in here when
-- this file is applied, so that Python and SQL refuse the same.

SET LOCAL client_min_messages = warning;

CREATE OR REPLACE FUNCTION flux.metadata_schema(device_type text) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    SELECT %schema%::jsonb -> device_type
$$;
COMMENT ON FUNCTION flux.metadata_schema(text) IS 'JSON Schema properties of the metadata of a bess or a meter; keys that are not in it are free.';

CREATE OR REPLACE FUNCTION flux.value_problem(rule jsonb, value jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
DECLARE
    kind   text := jsonb_typeof(value);
    wanted text := rule ->> 'type';
    written text := value #>> '{}';
BEGIN
    IF rule ? 'anyOf' THEN
        IF EXISTS (SELECT FROM jsonb_array_elements(rule -> 'anyOf') r(choice) WHERE flux.value_problem(r.choice, value_problem.value) IS NULL) THEN
            RETURN NULL;
        END IF;
        -- of the choices the first says what was meant; the other one is null
        RETURN flux.value_problem(rule #> '{anyOf,0}', value);
    END IF;
    IF wanted = 'integer' AND NOT (kind = 'number' AND written ~ '^-?[0-9]+$') THEN RETURN 'must be a whole number'; END IF;
    IF wanted = 'number' AND kind <> 'number' THEN RETURN 'must be a number'; END IF;
    IF wanted IN ('string', 'boolean', 'null') AND kind <> wanted THEN
        RETURN CASE wanted WHEN 'string' THEN 'must be text' WHEN 'boolean' THEN 'must be true or false' ELSE 'must be null' END;
    END IF;
    IF wanted = 'object' THEN
        IF kind <> 'object' THEN RETURN 'must be an object of names and values'; END IF;
        RETURN (SELECT format('has %s = %s, which %s', e.key, left(e.value::text, 100), p.problem)
                FROM jsonb_each(value_problem.value) e
                CROSS JOIN LATERAL (SELECT flux.value_problem(rule -> 'additionalProperties', e.value)) p(problem)
                WHERE p.problem IS NOT NULL ORDER BY e.key LIMIT 1);
    END IF;
    IF kind = 'number' AND written::numeric NOT BETWEEN -1e300 AND 1e300 THEN RETURN 'is too large'; END IF;
    IF kind = 'number' AND written::numeric <= (rule ->> 'exclusiveMinimum')::numeric THEN
        RETURN 'must be above ' || (rule ->> 'exclusiveMinimum');
    END IF;
    IF kind = 'number' AND written::numeric < (rule ->> 'minimum')::numeric THEN
        RETURN 'must be at least ' || (rule ->> 'minimum');
    END IF;
    IF kind = 'number' AND written::numeric > (rule ->> 'maximum')::numeric THEN
        RETURN 'must be at most ' || (rule ->> 'maximum');
    END IF;
    IF rule ? 'enum' AND NOT rule -> 'enum' @> value THEN
        RETURN 'must be one of ' || (SELECT string_agg(e.word, ', ') FROM jsonb_array_elements_text(rule -> 'enum') e(word));
    END IF;
    IF kind = 'string' AND written !~ (rule ->> 'pattern') THEN RETURN 'is not written as it should be, e.g. ' || (rule #>> '{examples,0}'); END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION flux.value_problem(jsonb, jsonb) IS 'What is wrong with a value by one rule of a JSON Schema; null: nothing.';

CREATE OR REPLACE FUNCTION flux.metadata_problem(device_type text, metadata jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    SELECT coalesce((
        SELECT format('%s = %s: it %s', m.key, left(m.value::text, 100), p.problem)
        FROM jsonb_each(metadata) m
        JOIN jsonb_each(flux.metadata_schema(device_type)) s ON s.key = m.key
        CROSS JOIN LATERAL (SELECT flux.value_problem(s.value, m.value)) p(problem)
        WHERE p.problem IS NOT NULL
        ORDER BY m.key LIMIT 1
    ), CASE WHEN device_type = 'meter' AND metadata ->> 'storage_of' IS NOT NULL AND metadata ->> 'meter_type' IS DISTINCT FROM 'storage'
            THEN 'storage_of is for a meter with meter_type storage' END)
$$;
COMMENT ON FUNCTION flux.metadata_problem(text, jsonb) IS 'The first thing that is wrong with the metadata of a bess or meter, in words; null: nothing.';

CREATE OR REPLACE FUNCTION flux.maintenance_end(metadata jsonb) RETURNS timestamptz
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
BEGIN
    RETURN (metadata #>> '{maintenance,started_at}')::timestamptz + (metadata #>> '{maintenance,expected_duration}')::interval;
EXCEPTION WHEN data_exception OR invalid_text_representation OR invalid_parameter_value THEN
    RETURN NULL;  -- a duration like "until Ada is back" is kept as text
END $$;
COMMENT ON FUNCTION flux.maintenance_end(jsonb) IS 'When the maintenance in a device''s metadata was to end; null: not known.';
