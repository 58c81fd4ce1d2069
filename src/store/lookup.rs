//! Finds the webhooks that must get an event.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::Object;
use jiff::civil::Date;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::days::within_window;
use super::headers_and_pace::{max_per_second, open_headers};
use super::{Scope, Store, StoreError, TypedParams, WAIT_FOR_STANDBY, account, column};
use crate::ids::{AccountId, DeliveryId, EventType, WebhookId};
use crate::secret::{Keyring, Owner};
use crate::signature::SigningKey;
use crate::snapshot::{SavedUrl, Secrets, Snapshot, SnapshotState, Standing};
use crate::webhook::MaxPerSecond;

/// What one query found.
#[derive(Debug)]
pub struct Lookup {
    /// The webhooks of each asked-for pair, in the order of the pairs.
    pub webhooks: Vec<Vec<Arc<Snapshot>>>,
    /// Today, by Postgres's clock; `None` if no webhook was found.
    pub day: Option<Date>,
}

/// The columns of a webhook `w` that an attempt needs; the statement must have `added!` after `w` in its FROM.
macro_rules! snapshot_columns {
    () => {
        "w.id AS webhook_id, w.account_id, w.url, w.secret,
        CASE WHEN w.previous_secret_until > now() THEN w.previous_secret END AS previous_secret,
        w.active, w.disabled_reason, w.activation, w.consecutive_failures > 0 AS troubled,
        CASE WHEN added.paused_until > now() THEN extract(epoch FROM added.paused_until - now())::float8 END AS paused_for,
        added.headers, added.header_names, added.max_per_second"
    };
}
/// The columns of `w` that came with V10 and V16; this program also works with older schemas. So the names stand there without a
/// table: PostgreSQL takes the webhook's column if there is one, else that of `absent`, which is always null. A statement that
/// was prepared before such a migration is analysed again after it.
macro_rules! added {
    () => {
        "(SELECT NULL::timestamptz AS paused_until, NULL::bytea AS headers,
            NULL::text[] AS header_names, NULL::integer AS max_per_second) AS absent
        CROSS JOIN LATERAL (SELECT paused_until, headers, header_names, max_per_second FROM (SELECT w.*) AS webhook) AS added"
    };
}
pub(super) use {added, snapshot_columns};

impl Store {
    /// Finds, for each pair of account and event type, the webhooks of this account that subscribe to this type, if they are
    /// active or we disabled them.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated. Also if nothing was found and it is not certain that nothing is
    /// there: the event must not be acked.
    pub async fn lookup(&self, keyring: &Keyring, wanted: &[(&AccountId, &EventType)]) -> Result<Lookup, StoreError> {
        let accounts: Vec<&str> = wanted.iter().map(|(account, _)| account.as_str()).collect();
        let types: Vec<&str> = wanted.iter().map(|(_, event_type)| event_type.as_str()).collect();
        let rows = self.query(LOOKUP, &[&accounts, &types]).await?;
        let (mut snapshots, mut webhooks) = (HashMap::new(), vec![Vec::new(); wanted.len()]);
        for row in &rows {
            let id: Uuid = column(row, "webhook_id");
            let webhook = snapshots.entry(id).or_insert_with(|| Arc::new(snapshot(row, keyring)));
            let index = usize::try_from(column::<i64>(row, "position") - 1).expect("positions count from 1");
            webhooks[index].push(webhook.clone());
        }
        if webhooks.iter().any(Vec::is_empty) {
            self.confirm_absence().await?;
        }
        Ok(Lookup { webhooks, day: rows.first().map(|row| column(row, "day")) })
    }

    /// An event without a webhook is acked and gone. So, after a look-up that found none, this waits until that is certain: a
    /// standby may lack the newest webhooks, and a primary may show a deletion that its synchronous standby does not have
    /// yet. A standby refuses the write, and on a primary the commit waits for the synchronous standby.
    async fn confirm_absence(&self) -> Result<(), StoreError> {
        let rows = self.query(MAY_BE_BEHIND, &[]).await?;
        if rows.first().is_none_or(|row| column(row, "may_be_behind")) {
            let commit = async |client: &mut Object| {
                let transaction = client.transaction().await?;
                transaction.batch_execute(WAIT_FOR_STANDBY).await?;
                transaction.commit().await
            };
            self.write(commit).await?;
        }
        Ok(())
    }

    /// The webhook as it is now, for a delivery that waited; `None` if it was deleted.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated: try again.
    pub async fn snapshot(
        &self,
        keyring: &Keyring,
        scope: Scope<'_>,
        id: WebhookId,
    ) -> Result<Option<Snapshot>, StoreError> {
        let rows = self.query(SNAPSHOT, &[&id.0, &scope.account()]).await?;
        Ok(rows.first().map(|row| snapshot(row, keyring)))
    }

    /// Returns those of the deliveries that were attempted within `retention`, are pending or were closed. For each of the
    /// others, one index of every partition of `retention` is searched.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only: it is not known which were taken.
    pub async fn already_taken(
        &self,
        deliveries: &[DeliveryId],
        retention: Duration,
    ) -> Result<HashSet<DeliveryId>, StoreError> {
        let ids: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.0).collect();
        // Pending rows are read before the log: a delivery that succeeds between the two statements is in the log.
        let waiting = self.query_durable(WAITING, &[(&ids, Type::UUID_ARRAY)]).await?;
        let mut taken: HashSet<Uuid> = waiting.iter().map(|row| column(row, "id")).collect();
        for window in self.log_days().await?.windows_within(retention) {
            let rest: Vec<Uuid> = ids.iter().filter(|id| !taken.contains(id)).copied().collect();
            if rest.is_empty() {
                break;
            }
            let age = retention.as_secs_f64();
            let params: TypedParams<'_> = &[
                (&rest, Type::UUID_ARRAY),
                (&age, Type::FLOAT8),
                (&window.from, Type::TIMESTAMPTZ),
                (&window.until, Type::TIMESTAMPTZ),
            ];
            let attempted = self.query_durable(ATTEMPTED, params).await?;
            taken.extend(attempted.iter().map(|row| column::<Uuid>(row, "delivery_id")));
        }
        Ok(taken.into_iter().map(DeliveryId).collect())
    }
}

const LOOKUP: &str = concat!(
    "SELECT e.position, (now() AT TIME ZONE 'UTC')::date AS day, ",
    snapshot_columns!(),
    "
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS e (account_id, event_type, position)
    JOIN webhooks w ON w.account_id = e.account_id AND e.event_type = ANY (w.event_types) CROSS JOIN ",
    added!(),
    " WHERE w.active OR w.disabled_reason IS NOT NULL"
);

const MAY_BE_BEHIND: &str =
    "SELECT pg_is_in_recovery() OR current_setting('synchronous_standby_names') <> '' AS may_be_behind";

const SNAPSHOT: &str = concat!(
    "SELECT ",
    snapshot_columns!(),
    " FROM webhooks w CROSS JOIN ",
    added!(),
    " WHERE w.id = $1 AND w.account_id = coalesce($2::text, w.account_id)"
);

const WAITING: &str = "
    SELECT id FROM pending_deliveries WHERE id = ANY ($1)
    UNION SELECT id FROM closed_deliveries WHERE id = ANY ($1)";

/// Bounded by our own retention: a time that the event's publisher gave may be wrong.
const ATTEMPTED: &str = concat!(
    "SELECT DISTINCT delivery_id FROM attempts
    WHERE delivery_id = ANY ($1) AND trigger <> 'test' AND created_at >= now() - make_interval(secs => $2) AND ",
    within_window!("$3", "$4")
);

/// Reads the columns of `snapshot_columns!`.
pub(super) fn snapshot(row: &Row, keyring: &Keyring) -> Snapshot {
    let id = WebhookId(column(row, "webhook_id"));
    let state = match Standing::of(column(row, "active"), column(row, "disabled_reason")) {
        Standing::Active => {
            SnapshotState::Active { url: SavedUrl::new(column(row, "url")), secrets: secrets(row, keyring, id) }
        }
        Standing::Disabled => SnapshotState::Disabled,
        Standing::Off => SnapshotState::Off,
    };
    Snapshot {
        id,
        activation: column(row, "activation"),
        troubled: column(row, "troubled"),
        paused_until: paused_for(row).map(|remaining| Instant::now() + remaining),
        max_per_second: max_per_second(row).map(MaxPerSecond::get),
        state,
    }
}

/// How much longer the webhook is paused.
fn paused_for(row: &Row) -> Option<Duration> {
    column::<Option<f64>>(row, "paused_for").and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

fn secrets(row: &Row, keyring: &Keyring, webhook_id: WebhookId) -> Result<Box<Secrets>, crate::secret::OpenError> {
    let account_id = account(row);
    let owner = Owner { account_id: &account_id, webhook_id };
    let open = |envelope: &[u8]| keyring.open(envelope, owner).map(|secret| SigningKey::from(&secret));
    let previous: Option<&[u8]> = column(row, "previous_secret");
    let (current, previous) = (open(column(row, "secret"))?, previous.map(open).transpose()?);
    Ok(Secrets { current, previous, headers: open_headers(row, keyring, owner)? }.into())
}
