-- The headers that a customer adds to a webhook's requests, and how many requests a second the webhook gets. No default rewrites a
-- row. Rather fail, and be tried again, than have everybody wait behind a long reader.
SET LOCAL lock_timeout = '2s';
ALTER TABLE webhooks
    -- As the customer typed them, to be shown. Null or empty: there are none.
    ADD COLUMN header_names text[],
    -- One envelope of src/secret.rs with all names and values. Null if there are none.
    ADD COLUMN headers bytea,
    -- When the customer last set them. Encrypting them again with another key does not change it.
    ADD COLUMN headers_set_at timestamptz,
    -- Null: as fast as the receiver takes them.
    ADD COLUMN max_per_second integer CHECK (max_per_second BETWEEN 1 AND 1000),
    -- Nobody is shown headers that are not sent.
    ADD CONSTRAINT webhooks_headers_check CHECK ((headers IS NULL) = (coalesce(cardinality(header_names), 0) = 0));

-- As `raise_revision` for the columns that V11 knows.
CREATE TRIGGER raise_revision_of_v16 BEFORE UPDATE OF headers_set_at, max_per_second ON webhooks FOR EACH ROW
WHEN (coalesce(OLD.headers_set_at, '-infinity'::timestamptz) OPERATOR(pg_catalog.<>)
        coalesce(NEW.headers_set_at, '-infinity'::timestamptz)
    OR coalesce(OLD.max_per_second, 0) OPERATOR(pg_catalog.<>) coalesce(NEW.max_per_second, 0))
EXECUTE FUNCTION raise_webhook_revision();

-- What the workers have granted each other of a webhook's pace. Rows change several times a second, so there is room in each page
-- for the next version. A webhook that had no request since it got a pace has no row.
CREATE TABLE paces (
    webhook_id    uuid PRIMARY KEY,
    -- Requests are granted ahead of time, one after the other, `1 / max_per_second` seconds each: until this time all are granted.
    granted_until timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
