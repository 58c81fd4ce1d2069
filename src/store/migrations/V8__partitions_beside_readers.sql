-- Which partitions retention has chosen to drop, and when: it bounds how many go within an hour, whichever worker looks.
CREATE TABLE dropped_partitions (
    partition text NOT NULL,
    chosen_at timestamptz NOT NULL DEFAULT now()
);

-- Makes one day's partition of `events` or `attempts`, unless there is one. CREATE TABLE … PARTITION OF would lock the
-- whole table against everybody, and queue all who come later behind one long reader. A table that is made apart and
-- attached lets readers and writers go on. Those who make partitions at the same time do so one after the other. The
-- table's owner gets it, if whoever makes it may give it away: else its owner could not drop it.
CREATE FUNCTION make_partition(parent text, day date) RETURNS void LANGUAGE plpgsql
SET lock_timeout = '2s' SET timezone = 'UTC' AS $$
DECLARE
    spaces  text := (SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = parent::regclass);
    name    text := parent || to_char(day, '_YYYYMMDD');
    present regclass;
    place   text := (SELECT coalesce(' USING ' || quote_ident(m.amname), '') || coalesce(' TABLESPACE ' || quote_ident(s.spcname), '')
                     FROM pg_class c LEFT JOIN pg_am m ON m.oid = c.relam LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
                     WHERE c.oid = parent::regclass);
    owner   regrole := (SELECT relowner FROM pg_class WHERE oid = parent::regclass);
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('penr-webhooks: make_partition', 0));
    present := to_regclass(spaces || '.' || quote_ident(name));
    IF present IS NOT NULL THEN
        IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = present AND inhparent = parent::regclass) THEN
            RETURN;
        END IF;
        RAISE EXCEPTION '% is not a partition of %', name, parent
            USING HINT = 'Rename it, so that the partition of its day can be made.';
    END IF;
    EXECUTE format('CREATE TABLE %s.%I (LIKE %s INCLUDING ALL)%s', spaces, name, parent::regclass, place);
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s.%I FOR VALUES FROM (%L) TO (%L)', parent::regclass, spaces, name,
        day::timestamp, day::timestamp + interval '1 day');
    IF owner <> (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user) THEN
        BEGIN
            EXECUTE format('ALTER TABLE %s.%I OWNER TO %s', spaces, name, owner);
        EXCEPTION WHEN insufficient_privilege THEN NULL;
        END;
    END IF;
EXCEPTION
    -- It would overlap a partition that an operator has made. If that is for the whole day, the day has one.
    WHEN invalid_object_definition THEN
        IF NOT EXISTS (
            SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS bound) AS b
            WHERE i.inhparent = parent::regclass AND bound <> 'DEFAULT'
                AND coalesce(substring(bound FROM 'FROM \(''([^'']+)''\)')::timestamp, '-infinity') <= day
                AND coalesce(substring(bound FROM 'TO \(''([^'']+)''\)')::timestamp, 'infinity') >= day + 1
        ) THEN
            RAISE EXCEPTION 'a partition covers part of the day of %', name;
        END IF;
END $$;

-- As before: from yesterday (an attempt may have begun before midnight) to some days ahead.
CREATE OR REPLACE FUNCTION make_partitions(days_ahead integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    FOR ahead IN -1 .. days_ahead LOOP
        PERFORM make_partition('events', (now() AT TIME ZONE 'UTC')::date + ahead);
        PERFORM make_partition('attempts', (now() AT TIME ZONE 'UTC')::date + ahead);
    END LOOP;
END $$;
