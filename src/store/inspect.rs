//! Looks at the server, the partitions and the stored secrets, and changes nothing.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio_postgres::Row;

use super::migrate::DAYS_AHEAD;
use super::partitions::attached_partitions;
use super::{Store, StoreError, account, column};
use crate::ids::WebhookId;
use crate::secret::{Keyring, OpenError, Owner};

/// Opening every secret of a large installation would take long; a wrong key shows in the newest ones too.
const OPENED: i64 = 1000;

/// What a server says of itself.
#[derive(Debug)]
pub struct Server {
    pub version: String,
    /// As in `server_version_num`: 140005 is 14.5.
    pub version_number: i32,
    /// One question and its answer.
    pub latency: Duration,
    pub encrypted: bool,
    /// A standby, or a server told to refuse writes.
    pub read_only: bool,
    /// Settings that are off and without which a crash may lose what was committed.
    pub unsafe_settings: Vec<String>,
    /// Connections it gives to ordinary roles, and those in use by anybody.
    pub connections: i32,
    pub connections_used: i32,
    /// How far its clock is ahead of this machine's, as far as that can be told from here.
    pub clock_ahead: SignedDuration,
}

/// Somebody whose snapshot keeps the database from removing dead rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotHolder {
    /// Such as `session 4711 of backup (pg_dump)`, `replication slot archive` or `prepared transaction x`.
    pub name: String,
    /// Transactions that began since.
    pub transactions: i64,
    /// How long ago it began; of another role's session only known to members of `pg_read_all_stats`.
    pub age: Option<Duration>,
}

/// The locks that a server has room for, and what the partitions need of them.
#[derive(Debug, Clone, Copy)]
pub struct LockRoom {
    /// `max_locks_per_transaction`.
    pub per_session: i64,
    /// Sessions and prepared transactions, which share the room for all.
    pub sessions: i64,
    /// What a statement locks that uses one partition of each of the two tables: these and their indexes.
    pub events_day: i64,
    pub attempts_day: i64,
}

/// What became of a look at the stored secrets.
#[derive(Debug, Default)]
pub struct SecretCheck {
    pub webhooks: u64,
    /// How many webhooks' secrets were decrypted; of the others only the key's id was looked at.
    pub opened: u64,
    /// Key ids that the keyring lacks, each with the number of webhooks that need it.
    pub unknown_keys: Vec<(String, u64)>,
    /// Webhooks with a secret that its key does not open, as far as they were looked at.
    pub damaged: u64,
}

impl Store {
    /// What the server says of itself.
    pub async fn server(&self) -> Result<Server, StoreError> {
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

    /// Who keeps snapshots, the oldest first.
    pub async fn snapshot_holders(&self) -> Result<Vec<SnapshotHolder>, StoreError> {
        let rows = self.query(SNAPSHOT_HOLDERS, &[]).await?;
        let holder = |row| SnapshotHolder {
            name: column(row, "name"),
            transactions: i64::from(column::<i32>(row, "transactions")),
            age: column::<Option<f64>>(row, "age").and_then(|age| Duration::try_from_secs_f64(age).ok()),
        };
        Ok(rows.iter().map(holder).collect())
    }

    /// How many days from today on have all their partitions; 0 means that today lacks one. Looks no further ahead than
    /// partitions are made.
    pub async fn partition_days(&self) -> Result<i32, StoreError> {
        let rows = self.query(FIRST_MISSING_DAY, &[&DAYS_AHEAD]).await?;
        let missing: Option<i32> = rows.first().and_then(|row| column(row, "day"));
        Ok(missing.unwrap_or(DAYS_AHEAD + 1))
    }

    /// The DEFAULT partitions that somebody has added.
    pub async fn default_partitions(&self) -> Result<Vec<String>, StoreError> {
        let rows = self.query(DEFAULT_PARTITIONS, &[]).await?;
        Ok(rows.iter().map(|row| column(row, "name")).collect())
    }

    /// The server's room for locks, and what a day of the log needs of it.
    pub async fn lock_room(&self) -> Result<LockRoom, StoreError> {
        let rows = self.query(LOCK_ROOM, &[]).await?;
        let row = rows.first().ok_or_else(|| StoreError::Unavailable(anyhow::anyhow!("it gave an empty answer")))?;
        Ok(LockRoom {
            per_session: column(row, "per_session"),
            sessions: column(row, "sessions"),
            events_day: column(row, "events_day"),
            attempts_day: column(row, "attempts_day"),
        })
    }

    /// Whether the keyring opens what is stored: every envelope's key id is looked up, the newest are decrypted too.
    pub async fn check_secrets(&self, keyring: &Keyring) -> Result<SecretCheck, StoreError> {
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
        Ok(check)
    }
}

fn server(row: &Row, latency: Duration, before: Timestamp, after: Timestamp) -> Server {
    let clock: Timestamp = column(row, "clock");
    // It was read between the two: only what lies outside of them is known to be a difference.
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
        clock_ahead,
    }
}

/// Whether a secret whose key we have does not open. One too short to name its key was counted before.
fn is_damaged(row: &Row, keyring: &Keyring) -> bool {
    let account_id = account(row);
    let owner = Owner { account_id: &account_id, webhook_id: WebhookId(column(row, "id")) };
    let envelopes = ["secret", "previous_secret"].map(|name| column::<Option<&[u8]>>(row, name));
    envelopes.into_iter().flatten().any(|envelope| {
        keyring.check_key(envelope).is_ok() && matches!(keyring.open(envelope, owner), Err(OpenError::Damaged))
    })
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
        clock_timestamp() AS clock";

/// A session holds old rows with its snapshot or with its own writes, whichever is older; a vacuum does not. Sessions of
/// other databases do not matter; replication slots and prepared transactions of this one do.
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

/// The part of an envelope that ends with its key id, whose length is the second byte: few differ.
const ENVELOPE_BEGINNINGS: &str = "
    SELECT beginning, count(DISTINCT id) AS webhooks
    FROM webhooks
    CROSS JOIN LATERAL (VALUES (secret), (CASE WHEN previous_secret_until > now() THEN previous_secret END))
        AS kept (envelope)
    CROSS JOIN LATERAL (SELECT CASE WHEN octet_length(envelope) < 2 THEN envelope
        ELSE substring(envelope FROM 1 FOR 2 + get_byte(envelope, 1)) END AS beginning) AS cut
    WHERE envelope IS NOT NULL
    GROUP BY beginning";

const NEWEST_ENVELOPES: &str = "
    SELECT id, account_id, secret, CASE WHEN previous_secret_until > now() THEN previous_secret END AS previous_secret
    FROM webhooks ORDER BY id DESC LIMIT $1";
