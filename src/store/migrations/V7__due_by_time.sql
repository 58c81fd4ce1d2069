-- Due deliveries are found by their time: deliveries that wait cost nothing until then, however many they are. The index
-- by day only served retention, which asks once an hour and may read this small table; a retry writes as many index
-- entries as before. It goes first: to ask for the table's strongest lock after a weaker one would be a deadlock with a
-- claim. Rather fail, and be tried again, than have everybody wait behind a long reader.
SET LOCAL lock_timeout = '2s';
DROP INDEX pending_deliveries_by_event_day;
CREATE INDEX pending_deliveries_by_time ON pending_deliveries (due_at, webhook_id);
-- Every claim and every result makes a row's old version dead. Room on each page keeps the new version beside it, and
-- vacuum comes after a few hundred dead rows, also while the table is large.
ALTER TABLE pending_deliveries SET (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 500,
    autovacuum_analyze_scale_factor = 0.05);
