//! Reads one delivery with all that is kept of it: its attempts, its event, and what its last request was signed with.

use std::sync::LazyLock;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::attempt_columns::ByColumns;
use super::claim::event_row;
use super::delivery_rows::DeliveryRow;
use super::headers_and_pace::{HeadersAndPace, header_names};
use super::log::{LogFilter, LogRow};
use super::{Scope, Store, StoreError, TypedParams, account, column};
use crate::event::Event;
use crate::ids::{DeliveryId, WebhookId};
use crate::secret::{Keyring, Owner};
use crate::signature::SigningKey;
use crate::snapshot::Secrets;
use crate::webhook::CustomHeaders;

/// The most attempts that are shown: the newest.
const ATTEMPTS: u32 = 100;
/// A worker may sign with the secrets that it read so long ago, and some time more for reading them.
const STALE: SignedDuration = SignedDuration::from_secs(2);

/// One delivery with all that is kept of it.
#[derive(Debug)]
pub(crate) struct KeptDelivery {
    pub row: DeliveryRow,
    /// Newest first, 100 at most.
    pub attempts: Vec<LogRow>,
    /// `None` if it is no longer kept. The event of a test is not kept at all.
    pub event: Option<Event>,
    /// The unix second in the last request, if it was stored.
    pub signed_at: Option<i64>,
    /// What the last request was signed with; `None` if that is not certain, or was not asked for.
    pub signed_by: Option<Secrets>,
    /// The names of the webhook's own headers in the last request; none if they were set since.
    pub own_headers: Vec<String>,
}

impl Store {
    /// Reads one delivery, and with the keyring the keys that signed its last request. The outer `None`: the account does not
    /// have the webhook. The inner: nothing is left of the delivery.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(crate) async fn kept_delivery(
        &self,
        keyring: Option<&Keyring>,
        scope: Scope<'_>,
        webhook: WebhookId,
        delivery: DeliveryId,
    ) -> Result<Option<Option<KeptDelivery>>, StoreError> {
        let Some(now) = self.webhook_now(scope, webhook).await? else { return Ok(None) };
        let filter = LogFilter { delivery: Some(delivery), ..LogFilter::default() };
        let Some(listed) = self.delivery(scope, webhook, now, &filter).await? else { return Ok(Some(None)) };
        let attempts = self.log(scope, webhook, &filter, ATTEMPTS).await?.map(|page| page.rows).unwrap_or_default();
        let event = self.kept_event(listed.event).await?;
        let (mut signed_at, mut signed_by, mut own_headers) = (None, None, Vec::new());
        if let Some(last) = attempts.first() {
            signed_at = self.signed_at(last).await?;
            own_headers = self.own_headers(webhook, last.created_at).await?;
            if let Some(keyring) = keyring {
                signed_by = self.signed_by(keyring, scope, webhook, last.created_at).await?;
            }
        }
        Ok(Some(Some(KeptDelivery { row: listed.row, attempts, event, signed_at, signed_by, own_headers })))
    }

    async fn kept_event(&self, (day, key): (Date, Uuid)) -> Result<Option<Event>, StoreError> {
        let rows = self.query_planned_anew(EVENT, &[(&day, Type::DATE), (&key, Type::UUID)]).await?;
        Ok(rows.first().map(|row| event_row(row).event))
    }

    async fn signed_at(&self, attempt: &LogRow) -> Result<Option<i64>, StoreError> {
        let params: TypedParams<'_> =
            &[(&attempt.id, Type::UUID), (&attempt.delivery_id, Type::UUID), (&attempt.created_at, Type::TIMESTAMPTZ)];
        let sql = SIGNED_AT.of(self.readable_attempt_columns().await?);
        Ok(self.query_planned_anew(sql, params).await?.first().and_then(|row| column(row, "signed_at")))
    }

    /// The names of the webhook's own headers in an attempt that began at `began`; none if they were set later, or too shortly
    /// before that to be certain.
    async fn own_headers(&self, webhook: WebhookId, began: Timestamp) -> Result<Vec<String>, StoreError> {
        if self.headers_and_pace().await? == HeadersAndPace::BeforeV16 {
            return Ok(Vec::new());
        }
        let rows = self.query(OWN_HEADERS, &[&webhook.0]).await?;
        Ok(rows.first().map_or_else(Vec::new, |row| {
            let set_at: Option<Timestamp> = column(row, "headers_set_at");
            if set_at.is_some_and(|set_at| began > set_at + STALE) { header_names(row).0 } else { Vec::new() }
        }))
    }

    /// The keys that signed an attempt that began at `began`; `None` if that is not certain, or one cannot be decrypted.
    async fn signed_by(
        &self,
        keyring: &Keyring,
        scope: Scope<'_>,
        webhook: WebhookId,
        began: Timestamp,
    ) -> Result<Option<Secrets>, StoreError> {
        let rows = self.query(SECRETS, &[&webhook.0, &scope.account()]).await?;
        Ok(rows.first().and_then(|row| {
            let account_id = account(row);
            let owner = Owner { account_id: &account_id, webhook_id: webhook };
            let open = |envelope: &[u8]| keyring.open(envelope, owner).ok().map(|secret| SigningKey::from(&secret));
            let previous: Option<&[u8]> = column(row, "previous_secret");
            let current = open(column(row, "secret"))?;
            match Replacement::of(row).signers(began, previous.is_some())? {
                Signers::Current => Some(Secrets { current, previous: None, headers: CustomHeaders::default() }),
                Signers::Both => {
                    Some(Secrets { current, previous: Some(open(previous?)?), headers: CustomHeaders::default() })
                }
            }
        }))
    }
}

/// Which of a webhook's secrets sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signers {
    Current,
    /// The current one, and the one before it.
    Both,
}

/// What is known of the last replacement of a webhook's secret.
#[derive(Debug, Clone, Copy)]
struct Replacement {
    /// Until when the secret before it signs beside it; `None` if the secret was never replaced.
    previous_until: Option<Timestamp>,
    /// The last change of the webhook. The secret was replaced then or before.
    updated_at: Timestamp,
}

impl Replacement {
    fn of(row: &Row) -> Self {
        Self { previous_until: column(row, "previous_secret_until"), updated_at: column(row, "updated_at") }
    }

    /// Which of the present secrets signed an attempt that began at `began`; `None` if that is not certain. How long both sign
    /// is chosen at each replacement, so its time is not known exactly.
    fn signers(self, began: Timestamp, has_previous: bool) -> Option<Signers> {
        let Some(until) = self.previous_until else { return Some(Signers::Current) };
        let is_replaced_before = began > self.updated_at + STALE;
        match began {
            _ if began > until + STALE => Some(Signers::Current),
            _ if is_replaced_before && has_previous && began < until => Some(Signers::Both),
            _ => None,
        }
    }
}

const EVENT: &str = "SELECT day, key, account_id, event_id, event_type, body FROM events WHERE day = $1 AND key = $2";

static SIGNED_AT: LazyLock<ByColumns<String>> = LazyLock::new(|| {
    ByColumns::new(|columns| {
        let signed_at = columns.read("signed_at", "bigint");
        format!("SELECT {signed_at} FROM attempts WHERE id = $1 AND delivery_id = $2 AND created_at = $3")
    })
});

const OWN_HEADERS: &str = "SELECT header_names, headers_set_at FROM webhooks WHERE id = $1";

const SECRETS: &str = "
    SELECT account_id, secret, previous_secret, previous_secret_until, updated_at
    FROM webhooks WHERE id = $1 AND account_id = coalesce($2::text, account_id)";

#[cfg(test)]
mod tests {
    use super::*;

    /// The webhook's secret was replaced, or its name changed after that, at 1,000 s; the old secret signs until 5,000 s.
    fn signers(began: i64, has_previous: bool) -> Option<Signers> {
        let at = |second| Timestamp::from_second(second).unwrap();
        Replacement { previous_until: Some(at(5000)), updated_at: at(1000) }.signers(at(began), has_previous)
    }

    #[test]
    fn a_request_from_before_the_replacement_is_not_signed_again() {
        assert_eq!([900, 1000, 1001].map(|began| signers(began, true)), [None; 3]);
    }

    #[test]
    fn both_secrets_sign_as_long_as_both_signed_then() {
        assert_eq!([1003, 4999].map(|began| signers(began, true)), [Some(Signers::Both); 2]);
        assert_eq!([1003, 4999].map(|began| signers(began, false)), [None; 2], "the older one is gone");
        assert_eq!([5000, 5001].map(|began| signers(began, true)), [None; 2], "a worker may not know the end yet");
        assert_eq!([true, false].map(|has_previous| signers(5003, has_previous)), [Some(Signers::Current); 2]);
    }

    #[test]
    fn a_secret_that_was_never_replaced_signed_whatever_else_was_changed() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let never = Replacement { previous_until: None, updated_at: at(1000) };
        assert_eq!([900, 1000, 1100].map(|began| never.signers(at(began), false)), [Some(Signers::Current); 3]);
    }
}
