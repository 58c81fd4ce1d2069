-- Due deliveries are claimed webhook by webhook, so that a backlog of one hides no other's.
CREATE INDEX pending_deliveries_by_webhook ON pending_deliveries (webhook_id, due_at);
DROP INDEX pending_deliveries_due;
