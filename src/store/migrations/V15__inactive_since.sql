-- When a webhook was switched off, by its owner or by us, and the activation that this began. A process of the release before
-- switches webhooks off and on without these columns, but raises `activation` with every switching off: so the time counts only
-- while the webhook is inactive and has this activation. Null in rows from before. No default rewrites a row. Rather fail, and be
-- tried again, than have everybody wait behind a long reader.
SET LOCAL lock_timeout = '2s';
ALTER TABLE webhooks
    ADD COLUMN inactive_since timestamptz,
    ADD COLUMN inactive_activation integer;
