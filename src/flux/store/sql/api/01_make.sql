-- How schema flux_api is made: views over tables, functions over functions, all from the catalogue, so that a column
-- that a table gained appears by itself. Applied anew whenever anything of the schema changes.

SET LOCAL client_min_messages = warning;

CREATE SCHEMA IF NOT EXISTS flux_api;
GRANT CREATE ON SCHEMA flux_api TO flux_views;  -- or nothing in it could be given to it
GRANT USAGE ON SCHEMA flux_api TO flux_authenticated, flux_operator, flux_edge, flux_service;
GRANT USAGE ON SCHEMA flux TO flux_views, flux_server;

CREATE OR REPLACE FUNCTION flux.put_api_view(name text, seen text, writable boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    source  CONSTANT regclass := format('flux.%I', name)::regclass;
    columns CONSTANT text := (SELECT string_agg(format('t.%I', a.attname), ', ' ORDER BY a.attnum)
                              FROM pg_attribute a WHERE a.attrelid = source AND a.attnum > 0 AND NOT a.attisdropped);
    view    CONSTANT text := format('CREATE OR REPLACE VIEW flux_api.%I WITH (security_barrier = true%s) AS SELECT %s FROM %s t WHERE %s',
                                    name, CASE WHEN writable THEN ', check_option = cascaded' END, columns, source, seen);
    remark  record;
BEGIN
    BEGIN
        EXECUTE view;
    EXCEPTION WHEN invalid_table_definition THEN  -- a column went, or came in between
        EXECUTE format('DROP VIEW flux_api.%I CASCADE', name);
        EXECUTE view;
    END;
    EXECUTE format('ALTER VIEW flux_api.%I OWNER TO flux_views', name);
    FOR remark IN SELECT a.attname, col_description(source, a.attnum) AS said FROM pg_attribute a
                  WHERE a.attrelid = source AND a.attnum > 0 AND NOT a.attisdropped LOOP
        IF remark.said IS NOT NULL THEN
            EXECUTE format('COMMENT ON COLUMN flux_api.%I.%I IS %L', name, remark.attname, remark.said);
        END IF;
    END LOOP;
    EXECUTE format('COMMENT ON VIEW flux_api.%I IS %L', name, obj_description(source));
END $$;
COMMENT ON FUNCTION flux.put_api_view(text, text, boolean) IS 'Makes view flux_api.<name> over table flux.<name>: all its columns, the rows for which the condition holds.';

CREATE OR REPLACE FUNCTION flux.put_api_function(name text, given jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    source CONSTANT pg_proc := (SELECT p FROM pg_proc p WHERE p.pronamespace = 'flux'::regnamespace AND p.proname = put_api_function.name);
    args   CONSTANT text := (SELECT string_agg(coalesce(given ->> a.argument, format('$%s', a.n)), ', ' ORDER BY a.n)
                             FROM unnest(source.proargnames[1:source.pronargs]) WITH ORDINALITY a(argument, n));
    old    regprocedure := to_regprocedure(format('flux_api.%I(%s)', name, oidvectortypes(source.proargtypes)));
    made   CONSTANT text := format('CREATE OR REPLACE FUNCTION flux_api.%I(%s) RETURNS %s LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp AS %L', name, pg_get_function_arguments(source.oid), pg_get_function_result(source.oid),
        format(CASE WHEN source.proretset THEN 'SELECT * FROM flux.%I(%s)' ELSE 'SELECT flux.%I(%s)' END, name, args));
BEGIN
    BEGIN
        EXECUTE made;
    EXCEPTION WHEN invalid_function_definition THEN  -- a column came or went
        EXECUTE format('DROP FUNCTION %s CASCADE', old);
        EXECUTE made;
    END;
    old := to_regprocedure(format('flux_api.%I(%s)', name, oidvectortypes(source.proargtypes)));
    EXECUTE format('ALTER FUNCTION %s OWNER TO flux_views', old);
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', old);
    EXECUTE format('COMMENT ON FUNCTION %s IS %L', old, obj_description(source.oid));
END $$;
COMMENT ON FUNCTION flux.put_api_function(text, jsonb) IS
    'Makes function flux_api.<name>, which calls flux.<name> as the owner of the views: with these expressions in place of arguments.';
