//! An index is added to a table while others write to it. A build that was killed is continued by the next migration.

use penr_webhooks::config::Settings;
use penr_webhooks::store::{Index, Store};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use url::Url;
use uuid::Uuid;

use crate::support::{Site, wait_until};

const INDEXES: [Index; 2] = [
    Index {
        name: "attempts_by_event",
        table: "attempts",
        definition: "(event_id, created_at) WHERE error IS NOT NULL",
    },
    Index { name: "webhooks_by_name", table: "webhooks", definition: "(account_id, name)" },
];

const ATTEMPTS_OF_ALL_DAYS: &str = "
    INSERT INTO attempts (id, webhook_id, delivery_id, event_day, event_key, event_id, event_type, trigger, attempt,
                          duration_ms, created_at)
    SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), current_date, gen_random_uuid(), 'evt', 'type',
           'event', 1, 1, now() + make_interval(days => n) FROM generate_series(-1, 7) AS n";

fn store(site: &Site, url: &str) -> Store {
    let key = site.settings().get("security.encryption_keys").to_owned();
    let environment =
        [("DATABASE_URL".to_owned(), url.to_owned()), ("PENR_WEBHOOKS__SECURITY__ENCRYPTION_KEYS".to_owned(), key)];
    let settings = Settings::load(None, environment, |_| unreachable!("no secret is in a file")).unwrap();
    Store::new(&settings.database).unwrap()
}

fn migrate(site: &Site) -> JoinHandle<Option<Vec<String>>> {
    let store = store(site, site.database_url());
    tokio::spawn(async move { store.migrate(&INDEXES).await.ok() })
}

/// Counts the sessions that wait for a lock in a statement that begins like this.
fn waiting(statement: &str) -> String {
    format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '{statement}%'"
    )
}

/// Counts the indexes of this database whose build is not complete.
const INVALID: &str = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";

/// Counts the partitions of the log that lack their part of the new index.
const WITHOUT: &str = "
    SELECT count(*) FROM pg_inherits p WHERE p.inhparent = 'attempts'::regclass AND NOT EXISTS (
        SELECT FROM pg_index i JOIN pg_inherits part ON part.inhrelid = i.indexrelid
        WHERE i.indrelid = p.inhrelid AND part.inhparent = 'attempts_by_event'::regclass)";

/// Writes to every partition. Fails if the writer waits longer than its `lock_timeout` for a lock: a build that waited for its
/// lock without a time limit would keep the writer waiting for ever.
async fn write(writer: &Client) {
    writer.batch_execute(ATTEMPTS_OF_ALL_DAYS).await.expect("no lock keeps the writer waiting");
}

#[tokio::test]
async fn nobody_waits_for_a_new_index_and_a_killed_build_is_continued() {
    let site = Site::new().await;
    let (open, writer, reader) = (site.another_sql().await, site.another_sql().await, site.another_sql().await);
    writer.batch_execute("SET lock_timeout = '30s'").await.unwrap();
    // While this transaction is open, the build cannot lock the whole table. It asks for that lock again and again.
    open.batch_execute(&format!("BEGIN; {ATTEMPTS_OF_ALL_DAYS}")).await.unwrap();
    let first = migrate(&site);
    let on_table = waiting("CREATE INDEX attempts_by_event ON ONLY");
    wait_until("the build asks for the lock", async || site.count(&on_table).await == 1).await;
    for _ in 0..5 {
        write(&writer).await;
    }
    // Building concurrently waits for the end of older snapshots.
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM webhooks").await.unwrap();
    open.batch_execute("COMMIT").await.unwrap();
    let concurrently = waiting("CREATE INDEX CONCURRENTLY");
    wait_until("a partition's index is being built", async || site.count(&concurrently).await == 1).await;
    write(&writer).await;
    writer.batch_execute("SELECT make_attempts_partition(20)").await.unwrap();
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND query LIKE 'CREATE INDEX CONCURRENTLY%'";
    site.sql().await.execute(kill, &[]).await.unwrap();
    assert!(first.await.unwrap().is_none(), "it was killed");
    assert_eq!(site.count(INVALID).await, 2, "the whole index, and the one of the partition");
    assert_eq!(site.count(WITHOUT).await, 9, "the new partition has its index");
    reader.batch_execute("ROLLBACK").await.unwrap();

    assert_eq!(migrate(&site).await.unwrap().unwrap(), ["attempts_by_event", "webhooks_by_name"]);
    assert_eq!(site.count(INVALID).await, 0);
    assert_eq!(site.count(WITHOUT).await, 0);
    let indexes =
        "SELECT count(*) FROM pg_indexes WHERE tablename LIKE 'attempts%' AND indexdef LIKE '%(event_id, created_at)%'";
    assert_eq!(site.count(indexes).await, 11, "one of the whole table, and one for each partition");
    assert_eq!(migrate(&site).await.unwrap().unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_partition_of_another_owner_is_named_with_what_to_do() {
    let site = Site::new().await;
    let owner = format!("owner_{}", Uuid::new_v4().simple());
    let superuser = site.another_sql().await;
    let give = format!(
        r"CREATE ROLE {owner} LOGIN PASSWORD 'x'; GRANT CREATE, USAGE ON SCHEMA public TO {owner};
        DO $$ DECLARE object text; BEGIN
            FOR object IN SELECT oid::regclass FROM pg_class WHERE relnamespace = 'public'::regnamespace
                AND relkind IN ('r', 'p') LOOP
                EXECUTE format('ALTER TABLE %s OWNER TO {owner}', object);
            END LOOP;
            FOR object IN SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'public'::regnamespace LOOP
                EXECUTE format('ALTER FUNCTION %s OWNER TO {owner}', object);
            END LOOP;
        END $$;
        CREATE TABLE attempts_20200211 PARTITION OF attempts
            FOR VALUES FROM ('2020-02-11 00:00:00+00') TO ('2020-02-12 00:00:00+00');
        ALTER TABLE attempts_20200211 OWNER TO CURRENT_USER"
    );
    superuser.batch_execute(&give).await.unwrap();
    let mut url = Url::parse(site.database_url()).unwrap();
    url.set_username(&owner).unwrap();
    url.set_password(Some("x")).unwrap();
    let store = store(&site, url.as_str());
    let refused = store.migrate(&INDEXES).await.unwrap_err();
    let said = format!("{:#}", anyhow::Error::from(refused));
    assert!(said.contains("ALTER TABLE public.attempts_20200211 OWNER TO"), "{said}");
    superuser.batch_execute(&format!("ALTER TABLE attempts_20200211 OWNER TO {owner}")).await.unwrap();
    assert_eq!(store.migrate(&INDEXES).await.unwrap(), ["attempts_by_event", "webhooks_by_name"]);
    let back = format!("REASSIGN OWNED BY {owner} TO CURRENT_USER; DROP OWNED BY {owner}; DROP ROLE {owner}");
    superuser.batch_execute(&back).await.unwrap();
}
