//! Finds the webhooks that an event would go to, by the look-up of a worker, and what would become of it there.

use std::collections::HashMap;
use std::time::Instant;

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::{Failure, output, store};
use crate::config::Settings;
use crate::hold::HeldWebhooks;
use crate::ids::{AccountId, EventType, WebhookId};
use crate::secret::Keyring;
use crate::snapshot::{Snapshot, SnapshotState};
use crate::store::Store;
use crate::text::printable;
use crate::webhook::{Webhook, origin_of};

/// Answers that are kept for further messages of the same account and type, before all are asked again.
const MOST_KEPT: usize = 1024;

/// A key that decrypts nothing, where the settings have none. Only what is not encrypted is needed here.
const NO_KEY: &str = "none:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// A webhook that an event would go to.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Subscriber {
    id: WebhookId,
    name: String,
    /// Of its URL; with the port, if that is not the usual one.
    host: String,
    then: Then,
    /// The same for people.
    text: String,
}

/// What would become of an event at a webhook.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Then {
    /// Sent at once, or as soon as the webhook's pace allows.
    Sent,
    /// Sent, but perhaps after others, one at a time.
    Failing,
    /// Kept until its receiver's time is over.
    Paused,
    /// Kept until an operator ends the hold.
    Held,
    /// Kept until an operator brings the key back.
    Unreadable,
    /// Each attempt fails: the settings do not allow the URL.
    RefusedUrl,
    /// Closed at once: we have switched it off.
    Closed,
}

/// The webhooks for an event.
#[derive(Debug, Clone)]
pub(super) struct Subscribers {
    pub(super) webhooks: Vec<Subscriber>,
    /// Why there are none.
    pub(super) nobody: Option<String>,
}

impl Subscriber {
    /// One line for people.
    pub(super) fn line(&self) -> String {
        format!("webhook {}, {} ({}): {}", self.id, printable(&self.name, usize::MAX), self.host, self.text)
    }
}

/// Asks the database.
pub(super) struct Finder<'a> {
    settings: &'a Settings,
    store: Store,
    keyring: Keyring,
    held: Option<HeldWebhooks>,
    kept: HashMap<(AccountId, EventType), Subscribers>,
}

impl<'a> Finder<'a> {
    /// `None` if the settings name no database. Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// The database's URL cannot be used.
    pub(super) fn of(settings: &'a Settings) -> Result<Option<Self>, Failure> {
        if settings.database_url().is_err() {
            return Ok(None);
        }
        let keyring = settings.keyring.clone();
        let keyring = keyring.unwrap_or_else(|| Keyring::parse(NO_KEY).expect("it is the base64 of 32 bytes"));
        Ok(Some(Self { settings, store: store(settings)?, keyring, held: None, kept: HashMap::new() }))
    }

    /// The webhooks for events of this account and type.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(super) async fn find(&mut self, account: &AccountId, event_type: &EventType) -> Result<Subscribers, Failure> {
        let pair = (account.clone(), event_type.clone());
        if let Some(found) = self.kept.get(&pair) {
            return Ok(found.clone());
        }
        if self.held.is_none() {
            let holds = self.store.holds().await?;
            self.held = Some(HeldWebhooks::new(&holds, self.store.webhooks_of_held_accounts(&holds).await?));
        }
        let found = self.store.lookup(&self.keyring, &[(account, event_type)]).await?.webhooks;
        let webhooks = self.store.list_webhooks(account, None, u32::MAX).await?;
        let snapshot = |webhook: &Webhook| found.iter().flatten().find(|snapshot| snapshot.id == webhook.id);
        let subscriber = |webhook| snapshot(webhook).map(|snapshot| self.subscriber(webhook, snapshot));
        let subscribers: Vec<Subscriber> = webhooks.iter().filter_map(subscriber).collect();
        let nobody = subscribers.is_empty().then(|| why_nobody(account, event_type, &webhooks));
        if self.kept.len() >= MOST_KEPT {
            self.kept.clear();
        }
        let found = Subscribers { webhooks: subscribers, nobody };
        self.kept.insert(pair, found.clone());
        Ok(found)
    }

    fn subscriber(&self, webhook: &Webhook, snapshot: &Snapshot) -> Subscriber {
        let origin = origin_of(&webhook.url).unwrap_or_default();
        let host = origin.split_once("://").map_or("no URL", |(_, host)| host).to_owned();
        let (then, text) = self.then(webhook, snapshot);
        Subscriber { id: webhook.id, name: webhook.name.clone(), host, then, text }
    }

    /// In the order in which a worker looks.
    fn then(&self, webhook: &Webhook, snapshot: &Snapshot) -> (Then, String) {
        let SnapshotState::Active { url, secrets } = &snapshot.state else {
            let reason = webhook.disabled_reason.as_deref().unwrap_or("disabled");
            return (
                Then::Closed,
                format!("switched off by us ({reason}): closed at once. After it is on again: webhooks recover"),
            );
        };
        if self.held.as_ref().is_some_and(|held| held.has(webhook.id, &webhook.account_id)) {
            return (Then::Held, "held by an operator: kept, and sent after the release".to_owned());
        }
        if secrets.is_err() && self.settings.keyring.is_some() {
            let text = "its secret or headers cannot be decrypted with the keys here: kept until they can";
            return (Then::Unreadable, text.to_owned());
        }
        if let Some(rest) = snapshot.paused_until.and_then(|until| until.checked_duration_since(Instant::now())) {
            let until = Timestamp::now().checked_add(rest).map(output::short).unwrap_or_default();
            return (
                Then::Paused,
                format!("its receiver asked for no requests until {until} UTC: kept, and sent then"),
            );
        }
        if let Err(refusal) = url.check(&self.settings.sender.urls) {
            return (
                Then::RefusedUrl,
                format!("each attempt fails, since the settings here refuse its URL: {refusal}"),
            );
        }
        if snapshot.troubled {
            let text =
                "its last attempt failed: sent, but while many in a row fail, one at a time, and the others wait";
            return (Then::Failing, text.to_owned());
        }
        let lowest = [snapshot.max_per_second, self.settings.sender.max_per_second].into_iter().flatten().min();
        let text = lowest.map_or_else(|| "sent at once".to_owned(), |pace| format!("sent, at most {pace} a second"));
        (Then::Sent, text)
    }
}

fn why_nobody(account: &AccountId, event_type: &EventType, webhooks: &[Webhook]) -> String {
    let subscribed = |webhook: &&Webhook| webhook.events.iter().any(|name| name == event_type.as_str());
    match (webhooks.len(), webhooks.iter().filter(subscribed).count()) {
        (0, _) => format!("account {account} has no webhook"),
        (1, 0) => format!("the only webhook of account {account} does not subscribe to {event_type}"),
        (all, 0) => format!("none of the {all} webhooks of account {account} subscribes to {event_type}"),
        (_, off) => format!(
            "of the webhooks of account {account}, {off} would get {event_type}, but their owner has switched them off"
        ),
    }
}
