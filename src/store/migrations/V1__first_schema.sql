-- What customers registered.
CREATE TABLE webhooks (
    id                    uuid PRIMARY KEY,
    account_id            text NOT NULL,
    name                  text NOT NULL,
    url                   text NOT NULL,
    event_types           text[] NOT NULL,
    -- Envelopes of src/secret.rs; never a secret itself.
    secret                bytea NOT NULL,
    previous_secret       bytea,
    previous_secret_until timestamptz,
    active                boolean NOT NULL DEFAULT true,
    -- Why we switched it off: gone or failing.
    disabled_reason       text,
    -- Raised by every switching off: what was owed before is cancelled.
    activation            integer NOT NULL DEFAULT 1,
    -- Since the last success, or since it was switched on.
    consecutive_failures  integer NOT NULL DEFAULT 0,
    failing_since         timestamptz,
    last_error            text,
    -- When its owner was told that it fails.
    failing_noticed_at    timestamptz,
    created_at            timestamptz NOT NULL DEFAULT now(),
    updated_at            timestamptz NOT NULL DEFAULT now(),
    CHECK (disabled_reason IS NULL OR NOT active)
);
CREATE INDEX webhooks_by_account ON webhooks (account_id, created_at, id);

-- The bodies to send, by the day we first matched them. Events nobody subscribed to are not stored.
CREATE TABLE events (
    day        date NOT NULL,
    key        uuid NOT NULL,
    account_id text NOT NULL,
    event_id   text NOT NULL,
    event_type text NOT NULL,
    body       bytea NOT NULL,
    PRIMARY KEY (day, key)
) PARTITION BY RANGE (day);

-- The webhook log: one row per HTTP request, insert-only.
CREATE TABLE attempts (
    id               uuid NOT NULL,
    webhook_id       uuid NOT NULL,
    delivery_id      uuid NOT NULL,
    event_day        date NOT NULL,
    event_key        uuid NOT NULL,
    event_id         text NOT NULL,
    event_type       text NOT NULL,
    trigger          text NOT NULL,
    attempt          integer NOT NULL,
    http_status      integer,
    duration_ms      integer NOT NULL,
    -- Null after a success.
    error            text,
    response_snippet text,
    created_at       timestamptz NOT NULL,
    next_attempt_at  timestamptz
) PARTITION BY RANGE (created_at);
CREATE INDEX attempts_by_webhook ON attempts (webhook_id, created_at DESC, id DESC);
CREATE INDEX attempts_by_delivery ON attempts (delivery_id);

-- Deliveries that wait for their time. Small and hot.
CREATE TABLE pending_deliveries (
    id            uuid PRIMARY KEY,
    webhook_id    uuid NOT NULL,
    activation    integer NOT NULL,
    event_day     date NOT NULL,
    event_key     uuid NOT NULL,
    -- Why the next attempt will be made.
    trigger       text NOT NULL,
    attempts_made integer NOT NULL,
    -- A claimed delivery is due again when its lease ends.
    due_at        timestamptz NOT NULL,
    -- The fencing token: raised by every claim and every result.
    claim         bigint NOT NULL DEFAULT 0,
    created_at    timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX pending_deliveries_due ON pending_deliveries (due_at);
CREATE INDEX pending_deliveries_by_event_day ON pending_deliveries (event_day);

-- Deliveries that ended without a success, kept thin so that they can be recovered.
CREATE TABLE closed_deliveries (
    id            uuid PRIMARY KEY,
    webhook_id    uuid NOT NULL,
    event_day     date NOT NULL,
    event_key     uuid NOT NULL,
    reason        text NOT NULL,
    attempts_made integer NOT NULL,
    closed_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX closed_deliveries_by_webhook ON closed_deliveries (webhook_id, closed_at);
CREATE INDEX closed_deliveries_by_event_day ON closed_deliveries (event_day);

-- What penr.ai's own services are still to be told.
CREATE TABLE notices (
    id     uuid PRIMARY KEY,
    kind   text NOT NULL,
    body   text NOT NULL,
    due_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX notices_due ON notices (due_at);

-- Makes the daily partitions from yesterday (an attempt may have begun before midnight) to some days ahead.
-- There is no default partition: it would have to be scanned whenever one is added.
CREATE FUNCTION make_partitions(days_ahead integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    today  date := (now() AT TIME ZONE 'UTC')::date;
    day    date;
    suffix text;
BEGIN
    FOR i IN -1 .. days_ahead LOOP
        day := today + i;
        suffix := to_char(day, 'YYYYMMDD');
        IF to_regclass('events_' || suffix) IS NULL THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF events FOR VALUES FROM (%L) TO (%L)',
                'events_' || suffix, day, day + 1);
        END IF;
        IF to_regclass('attempts_' || suffix) IS NULL THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF attempts FOR VALUES FROM (%L) TO (%L)',
                'attempts_' || suffix, day::text || ' 00:00:00+00', (day + 1)::text || ' 00:00:00+00');
        END IF;
    END LOOP;
END $$;
