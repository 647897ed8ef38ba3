-- The life of a device: which changes of state there are, what follows from what is written, and the event of each.
-- All of it is in these triggers, so that CLI, API and plain SQL have the same effect.

CREATE OR REPLACE FUNCTION flux.may_become(from_state text, to_state text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    SELECT from_state <> 'decommissioned' AND (
        to_state IN ('decommissioned', 'maintenance')
        OR (from_state, to_state) IN (('registered', 'configured'), ('configured', 'testing'), ('testing', 'active'),
                                      ('testing', 'failed'), ('failed', 'testing'), ('maintenance', 'testing')))
$$;
COMMENT ON FUNCTION flux.may_become(text, text) IS 'Whether a device may go from one state to another one.';

CREATE OR REPLACE FUNCTION flux.is_configured(device_type text, metadata jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    SELECT metadata ->> 'host' <> '' AND metadata ->> CASE device_type WHEN 'bess' THEN 'template' ELSE 'register_map' END <> ''
$$;
COMMENT ON FUNCTION flux.is_configured(text, jsonb) IS 'Whether a device can be talked to: its address and its registers are known. Null counts as no.';

CREATE OR REPLACE FUNCTION flux.keep_lifecycle() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before  text := 'registered';
    problem text;
BEGIN
    IF tg_op = 'INSERT' THEN
        IF new.state <> 'registered' THEN
            RAISE EXCEPTION '%: a new device is registered, it cannot begin as %', new.name, new.state USING ERRCODE = 'restrict_violation';
        END IF;
    ELSE
        before := old.state;
        IF (new.id, new.type) IS DISTINCT FROM (old.id, old.type) THEN
            RAISE EXCEPTION '%: the id and type of a device stay; decommission it and register another', old.name USING ERRCODE = 'restrict_violation';
        END IF;
        IF before = 'decommissioned' AND (new.state, new.active, new.name, new.site) IS DISTINCT FROM (old.state, old.active, old.name, old.site) THEN
            RAISE EXCEPTION '%: a device that is decommissioned stays so', old.name USING ERRCODE = 'restrict_violation';
        END IF;
        IF new.state <> before AND NOT flux.may_become(before, new.state) THEN
            RAISE EXCEPTION '%: a device that is % cannot become %', old.name, before, new.state USING ERRCODE = 'restrict_violation';
        END IF;
    END IF;

    -- (what is no object at all is refused by the table)
    IF jsonb_typeof(new.metadata) = 'object' AND (tg_op = 'INSERT' OR new.metadata IS DISTINCT FROM old.metadata) THEN
        problem := flux.metadata_problem(new.type, new.metadata);
        IF problem IS NOT NULL THEN
            RAISE EXCEPTION '%: metadata %', new.name, problem USING ERRCODE = 'check_violation';
        END IF;
    END IF;

    IF new.state = 'decommissioned' THEN
        new.active := false;
    ELSIF before = 'maintenance' THEN
        IF new.state = 'testing' OR new.active OR NOT new.metadata ? 'maintenance' THEN
            new.state := 'testing';  -- the way back is a check
            new.active := true;
            new.metadata := new.metadata - 'maintenance';
        END IF;
    ELSIF new.state = 'maintenance' OR (NOT new.active AND new.metadata ? 'maintenance') THEN  -- as people write it
        new.state := 'maintenance';
        new.active := false;
        IF NOT new.metadata ? 'maintenance' THEN
            new.metadata := new.metadata || jsonb_build_object('maintenance', jsonb_build_object('started_at', to_jsonb(now())));
        END IF;
    END IF;

    IF new.state = 'registered' AND flux.is_configured(new.type, new.metadata) THEN
        new.state := 'configured';
    END IF;
    IF new.state = 'configured' AND new.active AND flux.is_configured(new.type, new.metadata) THEN
        new.state := 'testing';
    END IF;
    RETURN new;
END $$;
COMMENT ON FUNCTION flux.keep_lifecycle() IS
    'Refuses what cannot be, and takes a device to the state that follows from what was written: configured and testing once its address and registers are known, maintenance when it is made inactive with a maintenance key, testing when that ends.';

CREATE OR REPLACE FUNCTION flux.record_lifecycle() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    state_now  text := CASE WHEN tg_op = 'UPDATE' THEN old.state END;
    state_next text;
BEGIN
    WHILE state_now IS DISTINCT FROM new.state LOOP
        state_next := CASE
            WHEN state_now IS NULL THEN 'registered'
            WHEN state_now = 'registered' AND new.state = 'testing' THEN 'configured'
            ELSE new.state END;
        INSERT INTO flux.device_events (device_id, time, from_state, to_state, trigger, actor, reason) VALUES (
            new.id, clock_timestamp(), state_now, state_next,
            -- who asked for a state says what made it; the steps that Flux took on the way have names of their own
            coalesce(CASE WHEN state_next = new.state THEN nullif(current_setting('flux.trigger', true), '') END,
                     CASE WHEN state_now IS NULL THEN 'registration'
                          WHEN state_next = 'configured' THEN 'metadata updated'
                          WHEN state_next = 'testing' THEN CASE state_now WHEN 'failed' THEN 'retry' WHEN 'maintenance' THEN 'maintenance ended' ELSE 'first poll' END
                          WHEN state_next = 'active' THEN 'successful poll'
                          WHEN state_next = 'failed' THEN 'poll failed'
                          WHEN state_next = 'maintenance' THEN 'maintenance'
                          ELSE 'removal' END),
            coalesce(nullif(current_setting('flux.actor', true), ''), session_user),
            coalesce(nullif(current_setting('flux.reason', true), ''),
                     CASE WHEN state_next = 'maintenance' THEN new.metadata #>> '{maintenance,reason}' END));
        state_now := state_next;
    END LOOP;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION flux.record_lifecycle() IS
    'Writes the event of each change of state. Who does it may say so before, in the same transaction: set_config(''flux.actor'' | ''flux.trigger'' | ''flux.reason'', …, true).';

CREATE OR REPLACE FUNCTION flux.refuse_event() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF pg_trigger_depth() < 2 THEN
        RAISE EXCEPTION 'flux.device_events is written by changes of mg_device_registry alone' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN new;
END $$;

CREATE OR REPLACE TRIGGER keep_lifecycle BEFORE INSERT OR UPDATE ON flux.mg_device_registry
    FOR EACH ROW EXECUTE FUNCTION flux.keep_lifecycle();
CREATE OR REPLACE TRIGGER record_lifecycle AFTER INSERT OR UPDATE ON flux.mg_device_registry
    FOR EACH ROW EXECUTE FUNCTION flux.record_lifecycle();
CREATE OR REPLACE TRIGGER only_by_lifecycle BEFORE INSERT ON flux.device_events
    FOR EACH ROW EXECUTE FUNCTION flux.refuse_event();

-- ── Groups ─────────────────────────────────────────────────────────────────────────────────────────────────────────

CREATE OR REPLACE FUNCTION flux.check_group_member() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    group_site text;
    device_site text;
BEGIN
    SELECT g.site INTO group_site FROM flux.device_groups g WHERE g.id = new.group_id;
    SELECT r.site INTO device_site FROM flux.mg_device_registry r WHERE r.id = new.device_id;
    IF NOT (flux.sees_all() OR flux.sees_site(device_site)) THEN  -- not a word about where it is, or whether
        RAISE EXCEPTION 'the caller sees no device %', new.device_id USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF NOT (flux.sees_all() OR group_site = 'ALL' OR flux.sees_site(group_site)) THEN
        RAISE EXCEPTION 'the caller sees no group %', new.group_id USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF group_site <> 'ALL' AND device_site <> group_site THEN
        RAISE EXCEPTION 'the group is of site %, the device of site %; a group of site ALL may span sites', group_site, device_site
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN new;
END $$;
CREATE OR REPLACE TRIGGER check_member BEFORE INSERT OR UPDATE ON flux.device_group_members
    FOR EACH ROW EXECUTE FUNCTION flux.check_group_member();

CREATE OR REPLACE VIEW flux.device_group_actors AS
SELECT DISTINCT ON (g.id) g.id AS group_id, g.name AS group_name, r.id AS device_id, r.name AS device_name, m.role, m.priority
FROM flux.device_groups g
JOIN flux.device_group_members m ON m.group_id = g.id AND m.role IN ('primary', 'backup')
JOIN flux.mg_device_registry r ON r.id = m.device_id AND r.active AND r.state = 'active'
WHERE g.type = 'control'
ORDER BY g.id, m.role DESC, m.priority, r.name;  -- 'primary' sorts after 'backup'
COMMENT ON VIEW flux.device_group_actors IS
    'Who acts for each control group now: the primary if it is active, else the first backup by priority (1 before 2) that is. No row: nobody.';
