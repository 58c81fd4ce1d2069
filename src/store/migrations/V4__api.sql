-- The log filtered for failures, which may stand far apart. A success costs nothing here.
CREATE INDEX attempts_failed_by_webhook ON attempts (webhook_id, created_at DESC, id DESC) WHERE error IS NOT NULL;

-- Recoveries that were asked for and are under way, so that a stop does not end them half-way.
CREATE TABLE recoveries (
    webhook_id uuid PRIMARY KEY,
    since      timestamptz NOT NULL,
    until      timestamptz NOT NULL
);
