-- Storing a body of 16 KiB took PostgreSQL 160 µs, most of it compressing; with lz4 it takes 60. A server built without
-- lz4 goes on as before.
DO $$
DECLARE
    tables regclass;
BEGIN
    FOR tables IN SELECT 'events'::regclass UNION SELECT inhrelid FROM pg_inherits WHERE inhparent = 'events'::regclass LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN body SET COMPRESSION lz4', tables);
    END LOOP;
EXCEPTION
    WHEN feature_not_supported OR syntax_error THEN NULL;
END $$;
