-- Until when a webhook gets nothing, for its receiver asked for time (Retry-After). Past or null: it is not paused.
-- Rather fail, and be tried again, than have everybody wait behind a long reader.
SET LOCAL lock_timeout = '2s';
ALTER TABLE webhooks ADD COLUMN paused_until timestamptz;
