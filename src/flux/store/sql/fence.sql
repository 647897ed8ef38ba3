-- What a caller of the HTTP API may see: one place. A request's transaction carries the claims of its token in
-- request.jwt.claims; views, policies and functions ask the functions below, and nothing else.
--
-- A session with claims sees the sites that they name; a session of the API without claims sees nothing; any other
-- session (flux worker, the CLI, people with psql) is as if there were no fence. None of it needs a role to exist.
-- They run as their owner, since the API's roles may not name anything in this schema.

SET LOCAL client_min_messages = warning;

CREATE OR REPLACE FUNCTION flux.gateway_name() RETURNS name LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT ('flux_gateway_' || CASE WHEN octet_length(current_database()) <= 50 THEN current_database()::text
                                    ELSE md5(current_database()) END)::name
$$;
COMMENT ON FUNCTION flux.gateway_name() IS 'The login of the HTTP API in this database; one for each, since logins belong to the whole server.';

CREATE OR REPLACE FUNCTION flux.in_api_session() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    -- (the setting stays what SET ROLE made it, also inside functions that run as their owner)
    SELECT current_setting('role') IN ('flux_anon', 'flux_authenticated', 'flux_operator', 'flux_edge', 'flux_service', 'flux_server')
        OR session_user LIKE 'flux\_gateway\_%'
$$;
COMMENT ON FUNCTION flux.in_api_session() IS 'Whether this is a session of the HTTP API: by the role that it took, or by its login.';

CREATE OR REPLACE FUNCTION flux.seen_sites() RETURNS text[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    claims jsonb := nullif(current_setting('request.jwt.claims', true), '');
BEGIN
    IF session_user LIKE 'flux\_gateway\_%' AND session_user <> flux.gateway_name() THEN
        RETURN '{}';  -- the login of another database of this server
    END IF;
    IF claims IS NULL THEN
        RETURN CASE WHEN flux.in_api_session() THEN '{}'::text[] END;
    END IF;
    IF jsonb_typeof(claims) <> 'object' OR claims ->> 'role' = 'anon' THEN
        RETURN '{}';
    END IF;
    IF claims ? 'sites' THEN
        -- anything but a list of texts names no site
        RETURN CASE WHEN jsonb_typeof(claims -> 'sites') = 'array' THEN
            array(SELECT e.value #>> '{}' FROM jsonb_array_elements(claims -> 'sites') e WHERE jsonb_typeof(e.value) = 'string')
            ELSE '{}' END;
    END IF;
    IF claims ? 'site' THEN
        RETURN CASE WHEN jsonb_typeof(claims -> 'site') = 'string' THEN ARRAY[claims ->> 'site'] ELSE '{}' END;
    END IF;
    RETURN CASE WHEN claims ->> 'role' = 'edge' THEN '{}'::text[] END;  -- an edge without a site has none
END $$;
COMMENT ON FUNCTION flux.seen_sites() IS 'The sites that this session may see; null: every site.';

CREATE OR REPLACE FUNCTION flux.sees_all() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT flux.seen_sites() IS NULL
$$;
COMMENT ON FUNCTION flux.sees_all() IS 'Whether this session may see every site.';

CREATE OR REPLACE FUNCTION flux.sees_any() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(cardinality(flux.seen_sites()) > 0, true)
$$;
COMMENT ON FUNCTION flux.sees_any() IS 'Whether this session may see any site: then it may also read what belongs to all.';

CREATE OR REPLACE FUNCTION flux.sees_site(site text) RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seen text[] := flux.seen_sites();
BEGIN
    RETURN seen IS NULL OR coalesce(site = ANY (seen), false);
END $$;
COMMENT ON FUNCTION flux.sees_site(text) IS 'Whether this session may see a site; null, which means all sites, only who sees all.';

CREATE OR REPLACE FUNCTION flux.seen_devices() RETURNS uuid[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sites text[] := flux.seen_sites();
BEGIN
    IF sites IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN array(SELECT r.id FROM flux.mg_device_registry r WHERE r.site = ANY (sites));
END $$;
COMMENT ON FUNCTION flux.seen_devices() IS 'The devices of the sites that this session may see; null: every device.';

CREATE OR REPLACE FUNCTION flux.seen_devices(wanted uuid[]) RETURNS uuid[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sites text[] := flux.seen_sites();
BEGIN
    IF sites IS NULL THEN
        RETURN wanted;
    END IF;
    RETURN array(SELECT r.id FROM flux.mg_device_registry r
                 WHERE r.site = ANY (sites) AND (wanted IS NULL OR r.id = ANY (wanted)));
END $$;
COMMENT ON FUNCTION flux.seen_devices(uuid[]) IS 'Of the devices wanted (null: all) those that this session may see; null: all of them.';

CREATE OR REPLACE FUNCTION flux.seen_names() RETURNS text[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sites text[] := flux.seen_sites();
BEGIN
    IF sites IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN array(SELECT r.name FROM flux.mg_device_registry r WHERE r.site = ANY (sites));
END $$;
COMMENT ON FUNCTION flux.seen_names() IS 'The names of the devices that this session may see; null: every device. Plans name devices.';

CREATE OR REPLACE FUNCTION flux.seen_groups() RETURNS uuid[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sites text[] := flux.seen_sites();
BEGIN
    IF sites IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN array(SELECT g.id FROM flux.device_groups g WHERE g.site = ANY (sites));
END $$;
COMMENT ON FUNCTION flux.seen_groups() IS 'The groups of the sites that this session may see, without those that span sites; null: every group.';

CREATE OR REPLACE FUNCTION flux.actor() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(nullif(current_setting('flux.actor', true), ''), session_user::text)
$$;
COMMENT ON FUNCTION flux.actor() IS 'Who does it, for histories: what the session says of itself, else its login.';

-- ── Keys ───────────────────────────────────────────────────────────────────────────────────────────────────────────

CREATE OR REPLACE FUNCTION flux.check_key(key_id uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found flux.api_keys;
BEGIN
    IF session_user LIKE 'flux\_gateway\_%' AND session_user <> flux.gateway_name() THEN
        RAISE EXCEPTION 'login % is of another database', session_user USING ERRCODE = 'invalid_authorization_specification';
    END IF;
    IF key_id IS NULL THEN
        RETURN;  -- signed by somebody whom the server trusts, and not issued by Flux
    END IF;
    SELECT k.* INTO found FROM flux.api_keys k WHERE k.id = check_key.key_id;
    IF found.id IS NULL OR found.revoked_at <= now() OR found.expires_at <= now() THEN
        RAISE EXCEPTION '%', CASE WHEN found.id IS NULL THEN 'the key is not known'
                                  WHEN found.revoked_at <= now() THEN 'the key was revoked' ELSE 'the key has expired' END
            USING ERRCODE = 'invalid_authorization_specification';
    END IF;
    IF (found.last_used IS NULL OR found.last_used < now() - interval '10 minutes') AND current_setting('transaction_read_only') = 'off' THEN
        -- (requests that come together do not wait for each other: one of them notes it)
        UPDATE flux.api_keys k SET last_used = now()
        WHERE k.id = (SELECT u.id FROM flux.api_keys u WHERE u.id = check_key.key_id FOR UPDATE SKIP LOCKED);
    END IF;
END $$;
COMMENT ON FUNCTION flux.check_key(uuid) IS 'Raises invalid_authorization_specification for a key that was revoked, has expired or is not known; null: nothing to check.';

-- ── Pieces of time, for those who may not make tables ──────────────────────────────────────────────────────────────

CREATE OR REPLACE FUNCTION flux.ensure_partitions_for(of_table text, times timestamptz[]) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made integer := 0;
    at   timestamptz;
BEGIN
    IF of_table NOT IN ('mg_meter_readings', 'mg_bess_readings', 'device_health', 'control_decisions') THEN
        RAISE EXCEPTION '% is no table that is written from outside', of_table USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR at IN SELECT DISTINCT date_trunc('day', t, 'UTC') FROM unnest(times) t
              WHERE t >= '2000-01-01Z' AND t < now() + interval '1 day' ORDER BY 1 LIMIT 1000 LOOP
        made := made + flux.ensure_partitions(format('flux.%I', of_table)::regclass, at, at);
    END LOOP;
    RETURN made;
END $$;
COMMENT ON FUNCTION flux.ensure_partitions_for(text, timestamptz[]) IS
    'Makes what is missing for rows of these times to be stored; times that no row may have (before 2000, after tomorrow) are left out.';

-- ── Writes through the API: a guard, a note ────────────────────────────────────────────────────────────────────────

CREATE OR REPLACE FUNCTION flux.api_written() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    claims jsonb := nullif(current_setting('request.jwt.claims', true), '');
    seen   uuid[];
    strange boolean := false;
    many   bigint;
BEGIN
    -- Row-level security cannot be on tables with compression: a reading of a foreign device is stopped here, should
    -- what is above ever let one through.
    IF tg_argv[0] = 'devices' AND NOT flux.sees_all() THEN
        seen := flux.seen_devices();
        IF tg_op = 'UPDATE' THEN
            strange := EXISTS (SELECT FROM before b WHERE b.device_id <> ALL (seen));
        END IF;
        IF strange OR EXISTS (SELECT FROM written w WHERE w.device_id <> ALL (seen)) THEN
            RAISE EXCEPTION 'a row is of a device that the key may not see' USING ERRCODE = 'insufficient_privilege';
        END IF;
    END IF;
    IF tg_argv[1] = 'noted' AND pg_trigger_depth() = 1 THEN  -- what follows from it by triggers is no write of the caller
        IF tg_op = 'DELETE' THEN
            SELECT count(*) INTO many FROM before;
        ELSE
            SELECT count(*) INTO many FROM written;
        END IF;
        IF many > 0 THEN
            PERFORM flux.note_api_write(tg_table_name, tg_op, many, claims);
        END IF;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION flux.api_written() IS 'After a statement that the HTTP API made: refuses rows of devices that it may not see, and notes the write in api_audit.';

CREATE OR REPLACE FUNCTION flux.note_api_write(object text, verb text, many bigint, claims jsonb) RETURNS void
LANGUAGE sql SET search_path = pg_catalog AS $$
    INSERT INTO flux.api_audit (key_id, name, role, sites, object, verb, rows, request_id)
    VALUES (CASE WHEN claims ->> 'jti' ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN (claims ->> 'jti')::uuid END,
            claims ->> 'name', claims ->> 'role', flux.seen_sites(), object, verb, many,
            nullif(current_setting('flux.request_id', true), ''))
$$;
COMMENT ON FUNCTION flux.note_api_write(text, text, bigint, jsonb) IS 'Part of flux.api_written.';

CREATE OR REPLACE FUNCTION flux.refuse_young_deletion() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF old.time > now() - interval '30 days' THEN
        RAISE EXCEPTION 'flux.% is append-only', tg_table_name USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN old;
END $$;
COMMENT ON FUNCTION flux.refuse_young_deletion() IS 'Only retention takes rows away, and never those of the last 30 days.';
CREATE OR REPLACE TRIGGER keep_young BEFORE DELETE ON flux.api_audit FOR EACH ROW EXECUTE FUNCTION flux.refuse_young_deletion();

CREATE OR REPLACE FUNCTION flux.stamp_actor() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stamp  text;
    whom   text;
    moment text;
    row    jsonb := to_jsonb(new);
    was    jsonb := CASE WHEN tg_op = 'UPDATE' THEN to_jsonb(old) END;
BEGIN
    FOREACH stamp IN ARRAY tg_argv LOOP  -- "who", or "who:when": who did it when this was set
        whom := split_part(stamp, ':', 1);
        moment := nullif(split_part(stamp, ':', 2), '');
        row := row || jsonb_build_object(whom, CASE
            WHEN was IS NOT NULL AND (moment IS NULL OR row -> moment = was -> moment) THEN was -> whom
            WHEN moment IS NOT NULL AND row -> moment = 'null' THEN 'null'
            ELSE to_jsonb(flux.actor()) END);
    END LOOP;
    RETURN jsonb_populate_record(new, row);
END $$;
COMMENT ON FUNCTION flux.stamp_actor() IS 'Who did it, in rows that clients of the HTTP API write, is whose key it was, whatever they send.';

ALTER FUNCTION flux.add_site() SECURITY DEFINER;
ALTER FUNCTION flux.add_site() SET search_path = pg_catalog, pg_temp;
