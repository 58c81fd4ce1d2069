-- What operators see and steer: which processes there are, what is held, and where an event's trace began. No default rewrites a
-- row. Rather fail, and be tried again, than have everybody wait behind a long reader.
SET LOCAL lock_timeout = '2s';

-- Each worker and each API writes its row again and again while it runs. Rows change every few seconds, so there is room in each
-- page for the next version.
CREATE TABLE processes (
    id         uuid PRIMARY KEY,
    -- worker, api, or both.
    role       text NOT NULL,
    version    text NOT NULL,
    host       text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now(),
    -- What the process has to do and has done lately, for operators. Releases may differ in what they write.
    figures    jsonb NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Nothing is sent to what is held: one webhook, all of an account, or all of this installation.
CREATE TABLE holds (
    id          uuid PRIMARY KEY,
    -- At most one of these two. Neither: everything is held.
    webhook_id  uuid UNIQUE REFERENCES webhooks ON DELETE CASCADE,
    account_id  text UNIQUE,
    since       timestamptz NOT NULL DEFAULT now(),
    -- What the operator wrote.
    reason      text,
    -- Not null: an operator has released it, and what waits is being spread over time. Then the row is deleted.
    released_at timestamptz,
    -- Of a hold of several webhooks: those with an id up to this one are sent to again.
    released_through uuid,
    -- The webhook after that is being spread since this time: what was due by then gets new times, so far up to `spread_until`.
    -- Both null: it is not yet.
    spreading_since timestamptz,
    spread_until    timestamptz,
    CONSTRAINT holds_check CHECK (webhook_id IS NULL OR account_id IS NULL)
);
CREATE UNIQUE INDEX holds_everything ON holds ((webhook_id IS NULL)) WHERE webhook_id IS NULL AND account_id IS NULL;

-- The header `traceparent` of the event's broker message (W3C Trace Context), for its later attempts. Null: it had none.
ALTER TABLE events ADD COLUMN traceparent text;
