-- Roles that own nothing make partitions too, by functions that do it with the rights of the tables' owner. They are for
-- the days ahead and nothing else, and whoever may run them is named (`migrate --grant-to`).
--
-- What runs with an owner's rights must be what it was when it was written: others may have functions and operators in
-- this schema whose arguments fit ours better. So functions are called by their schema, and operators have arguments of
-- exactly their types. As V8 made it otherwise; releases before call it with their own rights.
CREATE OR REPLACE FUNCTION make_partition(parent text, day date) RETURNS void LANGUAGE plpgsql
SET lock_timeout = '2s' SET timezone = 'UTC' AS $$
DECLARE
    whole   oid := parent::regclass::oid;
    spaces  text := (SELECT c.relnamespace::regnamespace::text FROM pg_catalog.pg_class c WHERE c.oid = whole);
    name    text := parent || pg_catalog.to_char(day::timestamp, '_YYYYMMDD');
    present oid;
    place   text := (SELECT coalesce(' USING ' || pg_catalog.quote_ident(m.amname::text), '')
                         || coalesce(' TABLESPACE ' || pg_catalog.quote_ident(s.spcname::text), '')
                     FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_am m ON m.oid = c.relam
                     LEFT JOIN pg_catalog.pg_tablespace s ON s.oid = c.reltablespace
                     WHERE c.oid = whole);
    owner   oid := (SELECT c.relowner FROM pg_catalog.pg_class c WHERE c.oid = whole);
BEGIN
    -- Two installations in two schemas do not wait for each other.
    PERFORM pg_catalog.pg_advisory_xact_lock(
        pg_catalog.hashtextextended('penr-webhooks: make_partition ' || spaces, 0::bigint));
    present := pg_catalog.to_regclass(spaces || '.' || pg_catalog.quote_ident(name))::oid;
    IF present IS NOT NULL THEN
        IF EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = present AND i.inhparent = whole) THEN
            RETURN;
        END IF;
        RAISE EXCEPTION '% is not a partition of %', name, parent
            USING HINT = 'Rename it, so that the partition of its day can be made.';
    END IF;
    EXECUTE pg_catalog.format('CREATE TABLE %s.%I (LIKE %s INCLUDING ALL)%s', spaces, name, whole::regclass, place);
    EXECUTE pg_catalog.format('ALTER TABLE %s ATTACH PARTITION %s.%I FOR VALUES FROM (%L) TO (%L)', whole::regclass,
        spaces, name, day::timestamp, day::timestamp + '1 day'::interval);
    IF owner <> (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = current_user) THEN
        BEGIN
            EXECUTE pg_catalog.format('ALTER TABLE %s.%I OWNER TO %s', spaces, name, owner::regrole);
        EXCEPTION WHEN insufficient_privilege THEN NULL;
        END;
    END IF;
EXCEPTION
    -- It would overlap a partition that an operator has made. If that is for the whole day, the day has one.
    WHEN invalid_object_definition THEN
        IF NOT EXISTS (
            SELECT FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
            CROSS JOIN LATERAL (SELECT pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS bound) AS b
            WHERE i.inhparent = whole AND bound <> 'DEFAULT'
                AND coalesce(substring(bound FROM 'FROM \(''([^'']+)''\)')::timestamp, '-infinity') <= day::timestamp
                AND coalesce(substring(bound FROM 'TO \(''([^'']+)''\)')::timestamp, 'infinity')
                    >= day::timestamp + '1 day'::interval
        ) THEN
            RAISE EXCEPTION 'a partition covers part of the day of %', name;
        END IF;
END $$;

DO $migration$
DECLARE
    parent text;
    home   text;
    owner  text;
BEGIN
    FOREACH parent IN ARRAY ARRAY['events', 'attempts'] LOOP
        SELECT c.relnamespace::regnamespace::text, c.relowner::regrole::text INTO STRICT home, owner
        FROM pg_class c WHERE c.oid = parent::regclass;
        -- Not OR REPLACE: that would keep the owner of a function that somebody has put there before.
        EXECUTE format(
            $make$
            CREATE FUNCTION %1$s.make_%2$s_partition(days_ahead integer) RETURNS void LANGUAGE plpgsql
            SECURITY DEFINER SET search_path = pg_catalog, %1$s, pg_temp AS $body$
            BEGIN
                IF days_ahead IS NULL OR days_ahead NOT BETWEEN -1 AND 31 THEN
                    RAISE EXCEPTION 'partitions are made from yesterday to 31 days ahead'
                        USING ERRCODE = 'invalid_parameter_value';
                END IF;
                PERFORM %1$s.make_partition('%2$s'::text, (pg_catalog.now() AT TIME ZONE 'UTC')::date + days_ahead);
            END $body$
            $make$, home, parent);
        EXECUTE format('REVOKE ALL ON FUNCTION %s.make_%s_partition(integer) FROM PUBLIC', home, parent);
        -- Whoever migrates may be a superuser, or a member of the owner's role.
        EXECUTE format('ALTER FUNCTION %s.make_%s_partition(integer) OWNER TO %s', home, parent, owner);
        EXECUTE format('ALTER FUNCTION %s.make_partition(text, date) OWNER TO %s', home, owner);
    END LOOP;
    -- As before: from yesterday (an attempt may have begun before midnight) to some days ahead.
    EXECUTE format(
        $make$
        CREATE OR REPLACE FUNCTION %1$s.make_partitions(days_ahead integer) RETURNS void LANGUAGE plpgsql AS $body$
        BEGIN
            FOR ahead IN -1 .. days_ahead LOOP
                PERFORM %1$s.make_events_partition(ahead);
                PERFORM %1$s.make_attempts_partition(ahead);
            END LOOP;
        END $body$
        $make$, home);
    EXECUTE format('ALTER FUNCTION %s.make_partitions(integer) OWNER TO %s', home, owner);
END $migration$;
