-- The whole schema, as the migrations in src/store/migrations make it, without the daily partitions of `events` and
-- `attempts`. Written by `make schema`: do not edit. The migrations give the reasons.

CREATE FUNCTION public.make_attempts_partition(days_ahead integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'public', 'pg_temp'
    AS $$
            BEGIN
                IF days_ahead IS NULL OR days_ahead NOT BETWEEN -1 AND 31 THEN
                    RAISE EXCEPTION 'partitions are made from yesterday to 31 days ahead'
                        USING ERRCODE = 'invalid_parameter_value';
                END IF;
                PERFORM public.make_partition('attempts'::text, (pg_catalog.now() AT TIME ZONE 'UTC')::date + days_ahead);
            END $$;

CREATE FUNCTION public.make_events_partition(days_ahead integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'public', 'pg_temp'
    AS $$
            BEGIN
                IF days_ahead IS NULL OR days_ahead NOT BETWEEN -1 AND 31 THEN
                    RAISE EXCEPTION 'partitions are made from yesterday to 31 days ahead'
                        USING ERRCODE = 'invalid_parameter_value';
                END IF;
                PERFORM public.make_partition('events'::text, (pg_catalog.now() AT TIME ZONE 'UTC')::date + days_ahead);
            END $$;

CREATE FUNCTION public.make_partition(parent text, day date) RETURNS void
    LANGUAGE plpgsql
    SET lock_timeout TO '2s'
    SET "TimeZone" TO 'UTC'
    AS $$
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

CREATE FUNCTION public.make_partitions(days_ahead integer) RETURNS void
    LANGUAGE plpgsql
    AS $$
        BEGIN
            FOR ahead IN -1 .. days_ahead LOOP
                PERFORM public.make_events_partition(ahead);
                PERFORM public.make_attempts_partition(ahead);
            END LOOP;
        END $$;

CREATE FUNCTION public.raise_webhook_revision() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    NEW.revision := GREATEST(OLD.revision OPERATOR(pg_catalog.+) 1,
        (EXTRACT(epoch FROM pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000000)::bigint);
    RETURN NEW;
END $$;

CREATE TABLE public.attempts (
    id uuid NOT NULL,
    webhook_id uuid NOT NULL,
    delivery_id uuid NOT NULL,
    event_day date NOT NULL,
    event_key uuid NOT NULL,
    event_id text NOT NULL,
    event_type text NOT NULL,
    trigger text NOT NULL,
    attempt integer NOT NULL,
    http_status integer,
    duration_ms integer NOT NULL,
    error text,
    response_snippet text,
    created_at timestamp with time zone NOT NULL,
    next_attempt_at timestamp with time zone,
    signed_at bigint,
    error_detail text,
    response_headers json,
    response_truncated boolean
)
PARTITION BY RANGE (created_at);

CREATE TABLE public.closed_deliveries (
    id uuid NOT NULL,
    webhook_id uuid NOT NULL,
    event_day date NOT NULL,
    event_key uuid NOT NULL,
    reason text NOT NULL,
    attempts_made integer NOT NULL,
    closed_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.dropped_partitions (
    partition text NOT NULL,
    chosen_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.events (
    day date NOT NULL,
    key uuid NOT NULL,
    account_id text NOT NULL,
    event_id text NOT NULL,
    event_type text NOT NULL,
    body bytea NOT NULL,
    traceparent text
)
PARTITION BY RANGE (day);
ALTER TABLE ONLY public.events ALTER COLUMN body SET COMPRESSION lz4;

CREATE TABLE public.holds (
    id uuid NOT NULL,
    webhook_id uuid,
    account_id text,
    since timestamp with time zone DEFAULT now() NOT NULL,
    reason text,
    released_at timestamp with time zone,
    released_through uuid,
    spreading_since timestamp with time zone,
    spread_until timestamp with time zone,
    CONSTRAINT holds_check CHECK (((webhook_id IS NULL) OR (account_id IS NULL)))
);

CREATE TABLE public.kept_answers (
    account_id text NOT NULL,
    key text NOT NULL,
    request bytea NOT NULL,
    envelope bytea NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.notices (
    id uuid NOT NULL,
    kind text NOT NULL,
    body text NOT NULL,
    due_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.paces (
    webhook_id uuid NOT NULL,
    granted_until timestamp with time zone NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_cost_delay='0');

CREATE TABLE public.pending_deliveries (
    id uuid NOT NULL,
    webhook_id uuid NOT NULL,
    activation integer NOT NULL,
    event_day date NOT NULL,
    event_key uuid NOT NULL,
    trigger text NOT NULL,
    attempts_made integer NOT NULL,
    due_at timestamp with time zone NOT NULL,
    claim bigint DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
)
WITH (autovacuum_vacuum_cost_delay='0', fillfactor='80', autovacuum_vacuum_scale_factor='0.01', autovacuum_vacuum_threshold='500', autovacuum_analyze_scale_factor='0.05');

CREATE TABLE public.processes (
    id uuid NOT NULL,
    role text NOT NULL,
    version text NOT NULL,
    host text NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    seen_at timestamp with time zone DEFAULT now() NOT NULL,
    figures jsonb NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_cost_delay='0');

CREATE TABLE public.recoveries (
    webhook_id uuid NOT NULL,
    since timestamp with time zone NOT NULL,
    until timestamp with time zone NOT NULL
);

CREATE TABLE public.refinery_schema_history (
    version integer NOT NULL,
    name character varying(255),
    applied_on character varying(255),
    checksum character varying(255)
);

CREATE TABLE public.webhooks (
    id uuid NOT NULL,
    account_id text NOT NULL,
    name text NOT NULL,
    url text NOT NULL,
    event_types text[] NOT NULL,
    secret bytea NOT NULL,
    previous_secret bytea,
    previous_secret_until timestamp with time zone,
    active boolean DEFAULT true NOT NULL,
    disabled_reason text,
    activation integer DEFAULT 1 NOT NULL,
    consecutive_failures integer DEFAULT 0 NOT NULL,
    failing_since timestamp with time zone,
    last_error text,
    failing_noticed_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    recovering_until timestamp with time zone,
    paused_until timestamp with time zone,
    revision bigint DEFAULT 1 NOT NULL,
    inactive_since timestamp with time zone,
    inactive_activation integer,
    header_names text[],
    headers bytea,
    headers_set_at timestamp with time zone,
    max_per_second integer,
    CONSTRAINT webhooks_check CHECK (((disabled_reason IS NULL) OR (NOT active))),
    CONSTRAINT webhooks_headers_check CHECK (((headers IS NULL) = (COALESCE(cardinality(header_names), 0) = 0))),
    CONSTRAINT webhooks_max_per_second_check CHECK (((max_per_second >= 1) AND (max_per_second <= 1000)))
);

ALTER TABLE ONLY public.closed_deliveries
    ADD CONSTRAINT closed_deliveries_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (day, key);

ALTER TABLE ONLY public.holds
    ADD CONSTRAINT holds_account_id_key UNIQUE (account_id);

ALTER TABLE ONLY public.holds
    ADD CONSTRAINT holds_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.holds
    ADD CONSTRAINT holds_webhook_id_key UNIQUE (webhook_id);

ALTER TABLE ONLY public.kept_answers
    ADD CONSTRAINT kept_answers_pkey PRIMARY KEY (account_id, key);

ALTER TABLE ONLY public.notices
    ADD CONSTRAINT notices_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.paces
    ADD CONSTRAINT paces_pkey PRIMARY KEY (webhook_id);

ALTER TABLE ONLY public.pending_deliveries
    ADD CONSTRAINT pending_deliveries_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.processes
    ADD CONSTRAINT processes_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.recoveries
    ADD CONSTRAINT recoveries_pkey PRIMARY KEY (webhook_id);

ALTER TABLE ONLY public.refinery_schema_history
    ADD CONSTRAINT refinery_schema_history_pkey PRIMARY KEY (version);

ALTER TABLE ONLY public.webhooks
    ADD CONSTRAINT webhooks_pkey PRIMARY KEY (id);

CREATE INDEX attempts_by_delivery ON ONLY public.attempts USING btree (delivery_id);

CREATE INDEX attempts_by_webhook ON ONLY public.attempts USING btree (webhook_id, created_at DESC, id DESC) INCLUDE (trigger, error, duration_ms);

CREATE INDEX attempts_failed_by_webhook ON ONLY public.attempts USING btree (webhook_id, created_at DESC, id DESC) WHERE (error IS NOT NULL);

CREATE INDEX closed_deliveries_by_event_day ON public.closed_deliveries USING btree (event_day);

CREATE INDEX closed_deliveries_by_webhook ON public.closed_deliveries USING btree (webhook_id, closed_at);

CREATE INDEX closed_deliveries_unattempted ON public.closed_deliveries USING btree (webhook_id, event_key) WHERE (attempts_made = 0);

CREATE UNIQUE INDEX holds_everything ON public.holds USING btree (((webhook_id IS NULL))) WHERE ((webhook_id IS NULL) AND (account_id IS NULL));

CREATE INDEX kept_answers_by_time ON public.kept_answers USING btree (created_at);

CREATE INDEX notices_due ON public.notices USING btree (due_at);

CREATE INDEX pending_deliveries_by_time ON public.pending_deliveries USING btree (due_at, webhook_id);

CREATE INDEX pending_deliveries_by_webhook ON public.pending_deliveries USING btree (webhook_id, due_at);

CREATE INDEX pending_deliveries_unattempted ON public.pending_deliveries USING btree (webhook_id, event_key) WHERE (attempts_made = 0);

CREATE INDEX webhooks_by_account ON public.webhooks USING btree (account_id, created_at, id);

CREATE INDEX webhooks_failing ON public.webhooks USING btree (failing_since, id) WHERE (active AND (failing_since IS NOT NULL));

CREATE TRIGGER raise_revision BEFORE UPDATE OF name, url, event_types, active ON public.webhooks FOR EACH ROW WHEN (((old.name <> new.name) OR (old.url <> new.url) OR (old.event_types <> new.event_types) OR (old.active <> new.active))) EXECUTE FUNCTION public.raise_webhook_revision();

CREATE TRIGGER raise_revision_of_v16 BEFORE UPDATE OF headers_set_at, max_per_second ON public.webhooks FOR EACH ROW WHEN (((COALESCE(old.headers_set_at, '-infinity'::timestamp with time zone) <> COALESCE(new.headers_set_at, '-infinity'::timestamp with time zone)) OR (COALESCE(old.max_per_second, 0) <> COALESCE(new.max_per_second, 0)))) EXECUTE FUNCTION public.raise_webhook_revision();

ALTER TABLE ONLY public.holds
    ADD CONSTRAINT holds_webhook_id_fkey FOREIGN KEY (webhook_id) REFERENCES public.webhooks(id) ON DELETE CASCADE;

