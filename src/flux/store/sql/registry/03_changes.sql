-- Who changed what of a device, by any way in.

CREATE OR REPLACE FUNCTION flux.record_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed jsonb;
BEGIN
    SELECT jsonb_object_agg(k.key, jsonb_build_array(o.value, n.value)) INTO changed
    FROM jsonb_each(old.metadata || jsonb_build_object('name', old.name, 'site', old.site, 'active', old.active)) o
    FULL JOIN jsonb_each(new.metadata || jsonb_build_object('name', new.name, 'site', new.site, 'active', new.active)) n
        ON n.key = o.key
    CROSS JOIN LATERAL (SELECT coalesce(n.key, o.key)) k(key)
    WHERE n.value IS DISTINCT FROM o.value;
    IF changed IS NOT NULL THEN
        INSERT INTO flux.device_changes (device_id, time, actor, changes)
        VALUES (new.id, clock_timestamp(), coalesce(nullif(current_setting('flux.actor', true), ''), session_user), changed);
    END IF;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER record_change AFTER UPDATE ON flux.mg_device_registry
    FOR EACH ROW EXECUTE FUNCTION flux.record_change();

CREATE OR REPLACE FUNCTION flux.record_template_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO flux.device_changes (device_id, time, actor, changes)
    SELECT r.id, clock_timestamp(), coalesce(nullif(current_setting('flux.actor', true), ''), session_user),
           jsonb_build_object('registers of ' || new.name, jsonb_build_array(left(old.hash, 12), left(new.hash, 12)))
    FROM flux.mg_device_registry r
    WHERE r.state <> 'decommissioned' AND new.name = r.metadata ->> CASE r.type WHEN 'bess' THEN 'template' ELSE 'register_map' END;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER record_change AFTER UPDATE OF hash ON flux.device_templates
    FOR EACH ROW WHEN (old.hash IS DISTINCT FROM new.hash) EXECUTE FUNCTION flux.record_template_change();
