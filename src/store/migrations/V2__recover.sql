-- Recovered deliveries fall due one after the other; the next ones continue here.
ALTER TABLE webhooks ADD COLUMN recovering_until timestamptz;
