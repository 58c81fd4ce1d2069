//! Reads the state of the server, the partitions and the stored secrets for the doctor, and changes nothing.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio_postgres::Row;

use super::headers_and_pace::open_headers;
use super::kept_answers::AnswerId;
use super::partitions::{DAYS_AHEAD, attached_partitions};
use super::{Store, StoreError, account, column};
use crate::ids::WebhookId;
use crate::secret::{Keyring, OpenError, Owner};

/// The number of webhooks whose secrets are decrypted, the newest, and of kept answers. A wrong key shows in these too, and
/// decrypting all secrets of a large installation would take long.
const OPENED: i64 = 1000;

/// The state of the server.
#[derive(Debug)]
pub(crate) struct Server {
    pub version: String,
    /// As in `server_version_num`: 140005 is 14.5.
    pub version_number: i32,
    /// The time from a query to its answer.
    pub latency: Duration,
    pub encrypted: bool,
    /// Whether it is a standby or is set to refuse writes.
    pub read_only: bool,
    /// Settings that are off, so that a crash of the server may lose committed transactions.
    pub unsafe_settings: Vec<String>,
    /// The connections that ordinary roles may have.
    pub connections: i32,
    /// The connections in use, those of superusers included.
    pub connections_used: i32,
    /// Those of them that are no sessions of this program at this database.
    pub connections_of_others: i32,
    /// How far its clock is ahead of this machine's; a difference that the query's own time can explain counts as none.
    pub clock_ahead: SignedDuration,
}

/// A session, slot or prepared transaction whose old snapshot keeps the database from removing dead rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SnapshotHolder {
    /// Such as `session 4711 of backup (pg_dump)`, `replication slot archive` or `prepared transaction x`.
    pub name: String,
    /// The number of transactions that began after the snapshot.
    pub transactions: i64,
    /// How long ago it began. Only members of `pg_read_all_stats` see this of another role's session.
    pub age: Option<Duration>,
}

/// How many locks a server has room for, and how many a day of partitions needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LockRoom {
    /// `max_locks_per_transaction`.
    pub per_session: i64,
    /// The number of sessions and prepared transactions that share the room.
    pub sessions: i64,
    /// The locks of a statement that uses one partition of `events`: the partition and its indexes.
    pub events_day: i64,
    /// The same for `attempts`.
    pub attempts_day: i64,
}

/// The result of [`Store::check_secrets`].
#[derive(Debug, Default)]
pub(crate) struct SecretCheck {
    pub webhooks: u64,
    /// The number of webhooks whose secrets and headers were decrypted; for the others only the key's id was checked.
    pub opened: u64,
    /// Key ids that the keyring lacks, each with the number of webhooks that need it.
    pub unknown_keys: Vec<(String, u64)>,
    /// The number of webhooks with a secret or headers that their key does not decrypt, among those that were checked.
    pub damaged: u64,
    pub answers: AnswerCheck,
}

/// Which of the answers that are kept for their `Idempotency-Key` the keyring decrypts.
#[derive(Debug, Default)]
pub(crate) struct AnswerCheck {
    /// Key ids that the keyring lacks, each with the number of answers that need it and the newest of these.
    pub unknown_keys: Vec<(String, u64, AnswerId)>,
    /// The newest answer that its key does not decrypt, among those that were checked.
    pub damaged: Option<AnswerId>,
}

impl Store {
    /// Reads the state of the server.
    ///
    /// # Errors
    ///
    /// The database is not available or busy.
    pub(crate) async fn server(&self) -> Result<Server, StoreError> {
        self.ping().await?;
        let asked = Instant::now();
        self.ping().await?;
        let latency = asked.elapsed();
        let before = Timestamp::now();
        let rows = self.query(SERVER, &[]).await?;
        let row = rows.first().ok_or_else(|| StoreError::Unavailable(anyhow::anyhow!("it gave an empty answer")))?;
        let after = Timestamp::now();
        Ok(server(row, latency, before, after))
    }

    /// The holders of old snapshots, the oldest first.
    ///
    /// # Errors
    ///
    /// The database is not available or busy.
    pub(crate) async fn snapshot_holders(&self) -> Result<Vec<SnapshotHolder>, StoreError> {
        let rows = self.query(SNAPSHOT_HOLDERS, &[]).await?;
        let holder = |row| SnapshotHolder {
            name: column(row, "name"),
            transactions: i64::from(column::<i32>(row, "transactions")),
            age: column::<Option<f64>>(row, "age").and_then(|age| Duration::try_from_secs_f64(age).ok()),
        };
        Ok(rows.iter().map(holder).collect())
    }

    /// The number of days, from today on, that have all their partitions: 0 if today lacks one, 8 at most, since partitions
    /// are made for a week ahead.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotMigrated`] without the tables; else the database is not available or busy.
    pub(crate) async fn partition_days(&self) -> Result<i32, StoreError> {
        let rows = self.query(FIRST_MISSING_DAY, &[&DAYS_AHEAD]).await?;
        let missing: Option<i32> = rows.first().and_then(|row| column(row, "day"));
        Ok(missing.unwrap_or(DAYS_AHEAD + 1))
    }

    /// The DEFAULT partitions, which only operators make.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotMigrated`] without the tables; else the database is not available or busy.
    pub(crate) async fn default_partitions(&self) -> Result<Vec<String>, StoreError> {
        let rows = self.query(DEFAULT_PARTITIONS, &[]).await?;
        Ok(rows.iter().map(|row| column(row, "name")).collect())
    }

    /// The server's room for locks, and what a day of partitions needs of it.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotMigrated`] without the tables; else the database is not available or busy.
    pub(crate) async fn lock_room(&self) -> Result<LockRoom, StoreError> {
        let rows = self.query(LOCK_ROOM, &[]).await?;
        let row = rows.first().ok_or_else(|| StoreError::Unavailable(anyhow::anyhow!("it gave an empty answer")))?;
        Ok(LockRoom {
            per_session: column(row, "per_session"),
            sessions: column(row, "sessions"),
            events_day: column(row, "events_day"),
            attempts_day: column(row, "attempts_day"),
        })
    }

    /// Checks that the keyring decrypts the stored secrets and headers: the key id of every envelope is looked up, and the newest are
    /// decrypted.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated. Secrets that cannot be decrypted are no error but a result.
    pub(crate) async fn check_secrets(&self, keyring: &Keyring) -> Result<SecretCheck, StoreError> {
        let mut check = SecretCheck { webhooks: self.count_webhooks().await?, ..SecretCheck::default() };
        for row in self.query(ENVELOPE_BEGINNINGS, &[]).await? {
            let webhooks = u64::try_from(column::<i64>(&row, "webhooks")).unwrap_or_default();
            match keyring.check_key(column(&row, "beginning")) {
                Err(OpenError::UnknownKey(id)) => check.unknown_keys.push((id, webhooks)),
                Err(OpenError::Damaged) => check.damaged += webhooks,
                Ok(()) => {}
            }
        }
        for row in self.query(NEWEST_ENVELOPES, &[&OPENED]).await? {
            check.opened += 1;
            check.damaged += u64::from(is_damaged(&row, keyring));
        }
        check.answers = self.check_answers(keyring).await?;
        Ok(check)
    }

    async fn check_answers(&self, keyring: &Keyring) -> Result<AnswerCheck, StoreError> {
        let mut check = AnswerCheck::default();
        if !self.keeps_answers().await? {
            return Ok(check);
        }
        for row in self.query(ANSWER_BEGINNINGS, &[]).await? {
            let answers = u64::try_from(column::<i64>(&row, "answers")).unwrap_or_default();
            match keyring.check_key(column(&row, "beginning")) {
                Err(OpenError::UnknownKey(id)) => check.unknown_keys.push((id, answers, AnswerId::of(&row))),
                Err(OpenError::Damaged) => check.damaged = Some(AnswerId::of(&row)),
                Ok(()) => {}
            }
        }
        let newest = self.query(NEWEST_ANSWERS, &[&OPENED]).await?;
        let is_damaged = |(id, row): &(AnswerId, &Row)| {
            keyring.open_answer(column(row, "envelope"), id.owner()) == Err(OpenError::Damaged)
        };
        let damaged = newest.iter().map(|row| (AnswerId::of(row), row)).find(is_damaged);
        check.damaged = damaged.map(|(id, _)| id).or(check.damaged);
        Ok(check)
    }
}

fn server(row: &Row, latency: Duration, before: Timestamp, after: Timestamp) -> Server {
    let clock: Timestamp = column(row, "clock");
    // The clock was read between `before` and `after`: only a time outside of these differs for certain.
    let clock_ahead = clock.duration_since(clock.clamp(before, after));
    Server {
        version: column(row, "version"),
        version_number: column(row, "version_number"),
        latency,
        encrypted: column(row, "encrypted"),
        read_only: column(row, "read_only"),
        unsafe_settings: column(row, "unsafe_settings"),
        connections: column(row, "connections"),
        connections_used: column(row, "connections_used"),
        connections_of_others: column(row, "connections_of_others"),
        clock_ahead,
    }
}

/// Whether a secret or headers whose key the keyring has cannot be decrypted. A webhook with an envelope too short to name its key was
/// counted before.
fn is_damaged(row: &Row, keyring: &Keyring) -> bool {
    let account_id = account(row);
    let owner = Owner { account_id: &account_id, webhook_id: WebhookId(column(row, "id")) };
    let [secret, previous, headers] =
        ["secret", "previous_secret", "headers"].map(|name| column::<Option<&[u8]>>(row, name));
    let names_its_key = |envelope: &[u8]| keyring.check_key(envelope) != Err(OpenError::Damaged);
    if ![secret, previous, headers].into_iter().flatten().all(names_its_key) {
        return false;
    }
    let is_damaged = |envelope: &[u8]| matches!(keyring.open(envelope, owner), Err(OpenError::Damaged));
    [secret, previous].into_iter().flatten().any(is_damaged)
        || open_headers(row, keyring, owner) == Err(OpenError::Damaged)
}

const SERVER: &str = "
    SELECT current_setting('server_version') AS version,
        current_setting('server_version_num')::integer AS version_number,
        coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS encrypted,
        current_setting('transaction_read_only')::boolean AS read_only,
        array(SELECT name FROM pg_catalog.unnest(array['fsync', 'full_page_writes', 'synchronous_commit']) AS name
              WHERE current_setting(name) = 'off') AS unsafe_settings,
        current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
            AS connections,
        (SELECT sum(numbackends) FROM pg_stat_database)::integer AS connections_used,
        (SELECT count(*) FROM pg_stat_activity
         WHERE backend_type = 'client backend' AND (datname <> current_database()
            OR application_name IS DISTINCT FROM current_setting('application_name')))::integer AS connections_of_others,
        clock_timestamp() AS clock";

/// A session keeps old rows by its snapshot or by its own transaction, whichever is older. Vacuums and the sessions of other
/// databases keep none. Replication slots and prepared transactions of this database keep some.
const SNAPSHOT_HOLDERS: &str = "
    SELECT name, transactions, age FROM (
        SELECT 'session ' || pid::text || coalesce(' of ' || usename::text, '') || coalesce(' (' || nullif(application_name, '') || ')', '')
                AS name,
            greatest(age(backend_xmin), age(backend_xid)) AS transactions,
            extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age
        FROM pg_stat_activity
        WHERE (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) AND pid <> pg_backend_pid()
            AND pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum)
            AND (datname = current_database() OR datname IS NULL OR backend_type = 'walsender')
        UNION ALL
        SELECT 'replication slot ' || slot_name::text, age(xmin), NULL FROM pg_replication_slots WHERE xmin IS NOT NULL
        UNION ALL
        SELECT 'prepared transaction ' || gid, age(transaction), extract(epoch FROM clock_timestamp() - prepared)::float8
        FROM pg_prepared_xacts WHERE database = current_database()
    ) AS holders ORDER BY transactions DESC, age DESC NULLS LAST";

const FIRST_MISSING_DAY: &str = concat!(
    "WITH made AS MATERIALIZED (SELECT * FROM ",
    attached_partitions!("'events'::regclass::oid, 'attempts'::regclass::oid"),
    " AS partitions WHERE NOT detach_pending)
    SELECT min(ahead)::integer AS day
    FROM generate_series(0, $1::integer) AS ahead, pg_catalog.unnest(array['events', 'attempts']) AS needed
    WHERE NOT EXISTS (
        SELECT FROM made WHERE parent = needed AND (now() AT TIME ZONE 'UTC')::date + ahead >= since
            AND (now() AT TIME ZONE 'UTC')::date + ahead < until)"
);

const DEFAULT_PARTITIONS: &str = "
    SELECT c.oid::regclass::text AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent IN ('events'::regclass::oid, 'attempts'::regclass::oid)
        AND pg_catalog.pg_get_expr(c.relpartbound, 0) = 'DEFAULT'
    ORDER BY name";

const LOCK_ROOM: &str = "
    SELECT current_setting('max_locks_per_transaction')::bigint AS per_session,
        current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint AS sessions,
        1 + (SELECT count(*) FROM pg_index WHERE indrelid = 'events'::regclass::oid) AS events_day,
        1 + (SELECT count(*) FROM pg_index WHERE indrelid = 'attempts'::regclass::oid) AS attempts_day";

/// The beginning of an envelope, up to and with the key's id, whose length is the second byte. There are few different ones.
macro_rules! beginning {
    () => {
        "CROSS JOIN LATERAL (SELECT CASE WHEN octet_length(envelope) < 2 THEN envelope
            ELSE substring(envelope FROM 1 FOR 2 + get_byte(envelope, 1)) END AS beginning) AS cut "
    };
}

const ENVELOPE_BEGINNINGS: &str = concat!(
    "SELECT beginning, count(DISTINCT id) AS webhooks
    FROM webhooks
    CROSS JOIN LATERAL (
        VALUES (secret), (CASE WHEN previous_secret_until > now() THEN previous_secret END), (headers)
    ) AS kept (envelope) ",
    beginning!(),
    "WHERE envelope IS NOT NULL
    GROUP BY beginning"
);

const ANSWER_BEGINNINGS: &str = concat!(
    "SELECT DISTINCT ON (beginning) beginning, account_id, key, count(*) OVER (PARTITION BY beginning) AS answers
    FROM kept_answers ",
    beginning!(),
    "WHERE created_at > now() - interval '24 hours'
    ORDER BY beginning, created_at DESC"
);

const NEWEST_ANSWERS: &str = "
    SELECT account_id, key, envelope FROM kept_answers
    WHERE created_at > now() - interval '24 hours' ORDER BY created_at DESC LIMIT $1";

const NEWEST_ENVELOPES: &str = "
    SELECT id, account_id, secret, CASE WHEN previous_secret_until > now() THEN previous_secret END AS previous_secret, url, headers,
        header_names
    FROM webhooks ORDER BY id DESC LIMIT $1";
