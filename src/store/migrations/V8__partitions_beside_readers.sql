-- Which partitions retention has chosen to drop, and when: it bounds how many go within an hour, whichever worker looks.
CREATE TABLE dropped_partitions (
    partition text NOT NULL,
    chosen_at timestamptz NOT NULL DEFAULT now()
);

-- Makes one day's partition of `events` or `attempts`, unless there is one. CREATE TABLE … PARTITION OF would lock the
-- whole table against everybody, and queue all who come later behind one long reader. A table that is made apart and
-- attached lets readers and writers go on. Those who make partitions at the same time do so one after the other.
CREATE FUNCTION make_partition(parent text, day date) RETURNS void LANGUAGE plpgsql
SET lock_timeout = '2s' SET timezone = 'UTC' AS $$
DECLARE
    spaces  text := (SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = parent::regclass);
    name    text := parent || to_char(day, '_YYYYMMDD');
    present regclass;
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
    EXECUTE format('CREATE TABLE %s.%I (LIKE %s INCLUDING ALL)', spaces, name, parent::regclass);
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s.%I FOR VALUES FROM (%L) TO (%L)', parent::regclass, spaces, name,
        day::timestamp, day::timestamp + interval '1 day');
EXCEPTION
    -- It would overlap a partition that an operator has made: the day has one.
    WHEN invalid_object_definition THEN NULL;
END $$;

-- As before: from yesterday (an attempt may have begun before midnight) to some days ahead.
CREATE OR REPLACE FUNCTION make_partitions(days_ahead integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    FOR ahead IN -1 .. days_ahead LOOP
        PERFORM make_partition('events', (now() AT TIME ZONE 'UTC')::date + ahead);
        PERFORM make_partition('attempts', (now() AT TIME ZONE 'UTC')::date + ahead);
    END LOOP;
END $$;
