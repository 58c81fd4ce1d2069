//! The headers and the pace of a webhook (V16): how statements read and write them.

use deadpool_postgres::Transaction;
use tokio_postgres::{Error, Row};

use super::known_columns::Addition;
use super::sql::query;
use super::{Scope, Store, StoreError, account, column};
use crate::ids::WebhookId;
use crate::secret::{HeadersOwner, Keyring, OpenError, Owner};
use crate::webhook::{CustomHeaders, HeaderNames, HeaderRefusal, MaxPerSecond, WantedHeaders, WebhookUrl, origin_of};

/// What the schema keeps of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadersAndPace {
    Kept,
    /// Nothing: V16 is missing.
    BeforeV16,
}

impl HeadersAndPace {
    /// The columns that [`header_names`] and [`max_per_second`] read.
    pub(super) fn read(self) -> &'static str {
        match self {
            Self::Kept => "header_names, max_per_second",
            Self::BeforeV16 => "NULL::text[] AS header_names, NULL::integer AS max_per_second",
        }
    }

    /// The columns that [`open_headers`] reads beside `url`.
    pub(super) fn envelope(self) -> &'static str {
        match self {
            Self::Kept => "headers, header_names",
            Self::BeforeV16 => "NULL::bytea AS headers, NULL::text[] AS header_names",
        }
    }

    /// The end of the SET list of an UPDATE by a customer. `$9` and `$12` say whether the headers and the pace change, `$10`, `$11`
    /// and `$13` what they are then.
    pub(super) fn update(self) -> &'static str {
        match self {
            Self::Kept => {
                ", header_names = CASE WHEN $9 THEN $10::text[] ELSE header_names END,
                 headers = CASE WHEN $9 THEN $11 ELSE headers END,
                 headers_set_at = CASE WHEN $9 THEN now() ELSE headers_set_at END,
                 max_per_second = CASE WHEN $12 THEN $13 ELSE max_per_second END"
            }
            Self::BeforeV16 => "",
        }
    }

    fn deletion(self, delete: &str) -> String {
        let delete = format!("{delete} RETURNING id");
        match self {
            Self::Kept => format!(
                "WITH gone AS ({delete}), locked AS MATERIALIZED (
                     SELECT webhook_id FROM paces WHERE webhook_id IN (SELECT id FROM gone) ORDER BY webhook_id FOR UPDATE
                 ), forgotten AS (DELETE FROM paces WHERE webhook_id IN (SELECT webhook_id FROM locked))
                 SELECT id FROM gone"
            ),
            Self::BeforeV16 => delete,
        }
    }
}

/// Reads the names of a webhook's headers.
pub(super) fn header_names(row: &Row) -> HeaderNames {
    HeaderNames(column::<Option<_>>(row, "header_names").unwrap_or_default())
}

/// Reads a webhook's pace.
pub(super) fn max_per_second(row: &Row) -> Option<MaxPerSecond> {
    // Only numbers that it accepts are stored.
    column::<Option<i32>>(row, "max_per_second").and_then(|number| MaxPerSecond::new(number.into()).ok())
}

/// As the column `max_per_second` has it.
pub(super) fn stored_number(pace: Option<MaxPerSecond>) -> Option<i32> {
    pace.map(|pace| i32::try_from(pace.get().get()).expect("it is 1,000 at most"))
}

/// Reads the headers of a webhook from its columns `headers`, `header_names` and `url`. Headers of other names than those that its
/// owner is shown, or none, count as damaged: nothing is sent without them.
pub(super) fn open_headers(row: &Row, keyring: &Keyring, owner: Owner<'_>) -> Result<CustomHeaders, OpenError> {
    let headers = match column::<Option<&[u8]>>(row, "headers") {
        Some(envelope) => {
            let origin = origin_of(column(row, "url")).ok_or(OpenError::Damaged)?;
            let text = keyring.open_headers(envelope, HeadersOwner { owner, origin: &origin })?;
            CustomHeaders::from_text(&text).ok_or(OpenError::Damaged)?
        }
        None => CustomHeaders::default(),
    };
    let names = column::<Option<Vec<&str>>>(row, "header_names").unwrap_or_default();
    if headers.iter().map(|(name, _)| name.as_str()).eq(names) { Ok(headers) } else { Err(OpenError::Damaged) }
}

/// Headers as they are stored: their names, and all in an envelope if there are any.
pub(super) struct SealedHeaders {
    pub names: Vec<String>,
    pub envelope: Option<Vec<u8>>,
}

impl SealedHeaders {
    pub(super) fn of(headers: &CustomHeaders, keyring: &Keyring, owner: HeadersOwner<'_>) -> Self {
        let envelope = (!headers.is_empty()).then(|| keyring.seal_headers(&headers.to_text(), owner, rand::random()));
        Self { names: headers.names(), envelope }
    }
}

/// Why the headers of a webhook stay as they are.
pub(super) enum NotSet {
    Refused(HeaderRefusal),
    /// The stored ones, of which some are to be kept, cannot be decrypted.
    Unreadable(OpenError),
}

impl Store {
    /// Whether the schema keeps headers and paces, for statements of their own.
    pub(super) async fn headers_and_pace(&self) -> Result<HeadersAndPace, StoreError> {
        Ok(match self.has(Addition::HeadersAndPace).await? {
            true => HeadersAndPace::Kept,
            false => HeadersAndPace::BeforeV16,
        })
    }

    /// A statement that deletes webhooks and what they were granted, locked in the order of their ids. It returns the ids. Their holds
    /// go with them.
    pub(super) async fn deletion(&self, delete: &str) -> Result<String, StoreError> {
        Ok(self.headers_and_pace().await?.deletion(delete))
    }

    /// Fails if the schema cannot keep headers and paces.
    pub(super) async fn needs_headers_and_pace(&self) -> Result<(), StoreError> {
        match self.headers_and_pace().await? {
            HeadersAndPace::Kept => Ok(()),
            HeadersAndPace::BeforeV16 => Err(StoreError::NotMigrated(anyhow::anyhow!(
                "its schema keeps no headers and no pace of a webhook; run `penr-webhooks migrate` first"
            ))),
        }
    }
}

/// What of a change matters for the headers.
pub(super) struct WantedChange<'a> {
    pub wanted: Option<&'a WantedHeaders>,
    pub url: Option<&'a WebhookUrl>,
    /// The webhook must have one of the versions `only_if`, the parameter `$3`.
    pub condition: &'a str,
    pub only_if: Option<&'a [String]>,
}

/// The headers that a webhook has after a change of its headers, its URL or both; the inner `None`: they stay as they are. Locks the
/// webhook, so that nobody changes its URL before the transaction ends. The outer `None`: there is no such webhook, or
/// it has another version.
pub(super) async fn after_change(
    transaction: &Transaction<'_>,
    keyring: &Keyring,
    (scope, id): (Scope<'_>, WebhookId),
    WantedChange { wanted, url, condition, only_if }: WantedChange<'_>,
) -> Result<Option<Result<Option<SealedHeaders>, NotSet>>, Error> {
    let sql = format!(
        "SELECT account_id, url, header_names, headers FROM webhooks
         WHERE id = $1 AND account_id = coalesce($2::text, account_id) AND {condition} FOR NO KEY UPDATE"
    );
    let rows = query(transaction, &sql, &[&id.0, &scope.account(), &only_if]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let stored_origin = origin_of(column(row, "url"));
    let same_receiver = url.is_none_or(|url| stored_origin.as_ref() == Some(&url.origin()));
    let names = header_names(row).0;
    let Some(wanted) = wanted else {
        let given = names.into_iter().next().filter(|_| !same_receiver);
        return Ok(Some(given.map_or(Ok(None), |name| Err(NotSet::Refused(HeaderRefusal::OtherReceiver(name))))));
    };
    if wanted.is_empty() {
        let none = (!names.is_empty()).then(|| SealedHeaders { names: Vec::new(), envelope: None });
        return Ok(Some(Ok(none)));
    }
    let account_id = account(row);
    let owner = Owner { account_id: &account_id, webhook_id: id };
    let stored = match wanted.keeps_any() {
        true => open_headers(row, keyring, owner),
        false => Ok(CustomHeaders::default()),
    };
    Ok(Some(match stored {
        Err(error) => Err(NotSet::Unreadable(error)),
        Ok(stored) if wanted.repeats(&stored) && same_receiver => Ok(None),
        Ok(stored) => match wanted.clone().with_kept(&stored, same_receiver) {
            Ok(headers) => {
                let origin = url.map(WebhookUrl::origin).or(stored_origin).unwrap_or_default();
                Ok(Some(SealedHeaders::of(&headers, keyring, HeadersOwner { owner, origin: &origin })))
            }
            Err(refusal) => Err(NotSet::Refused(refusal)),
        },
    }))
}
