-- The version of a webhook that its ETag names. A trigger raises it when a field that customers change gets another value,
-- so that a process of the release before, whose statements do not name this column, raises it too. New secrets, recoveries and
-- observations of health do not raise it, unless the webhook is disabled. A constant default rewrites no row. Rather fail, and
-- be tried again, than have everybody wait behind a long reader.
SET LOCAL lock_timeout = '2s';
ALTER TABLE webhooks ADD COLUMN revision bigint NOT NULL DEFAULT 1;

-- The revision is the time in microseconds since 1970, or one more than before if the clock was set back. A number that only
-- counts could come again with another content, after a fail-over that lost commits or after a restore.
--
-- Others may have functions and operators on the search path of whoever changes a webhook: so PostgreSQL's own are named by
-- their schema. Not OR REPLACE: that would keep the owner of a function that somebody has put there before.
CREATE FUNCTION raise_webhook_revision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.revision := GREATEST(OLD.revision OPERATOR(pg_catalog.+) 1,
        (EXTRACT(epoch FROM pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000000)::bigint);
    RETURN NEW;
END $$;

CREATE TRIGGER raise_revision BEFORE UPDATE OF name, url, event_types, active ON webhooks FOR EACH ROW
WHEN (OLD.name OPERATOR(pg_catalog.<>) NEW.name OR OLD.url OPERATOR(pg_catalog.<>) NEW.url
    OR OLD.event_types OPERATOR(pg_catalog.<>) NEW.event_types OR OLD.active OPERATOR(pg_catalog.<>) NEW.active)
EXECUTE FUNCTION raise_webhook_revision();

-- Whoever migrates may be a superuser, or a member of the role that owns the tables.
DO $$
DECLARE
    owner text := (SELECT c.relowner::regrole::text FROM pg_class c WHERE c.oid = 'events'::regclass::oid);
BEGIN
    EXECUTE format('ALTER FUNCTION raise_webhook_revision() OWNER TO %s', owner);
END $$;
