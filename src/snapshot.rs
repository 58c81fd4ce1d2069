//! What a worker reads of a webhook before it calls it: whether it takes deliveries, its URL and what requests are signed
//! with.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::ids::WebhookId;
use crate::secret::OpenError;
use crate::signature::SigningKey;
use crate::webhook::{CustomHeaders, UrlPolicy, UrlRefusal, WebhookUrl};

/// A webhook as one lookup found it: what is needed to call it, or the reason not to.
#[derive(Debug)]
pub struct Snapshot {
    /// The webhook.
    pub id: WebhookId,
    /// A number that rises whenever the webhook is switched off. Deliveries from before are cancelled.
    pub activation: i32,
    /// Whether the newest recorded results were failures: a success then changes the webhook's health.
    pub troubled: bool,
    /// Until when the receiver asked for no requests, by this process's clock. The webhook is not paused if this is past or
    /// `None`.
    pub paused_until: Option<Instant>,
    /// The most requests that it gets in a second, of all processes together; `None`: as many as it takes.
    pub max_per_second: Option<NonZeroU32>,
    /// Whether the webhook takes deliveries, and how.
    pub state: SnapshotState,
}

impl Snapshot {
    /// A webhook of which no more is known than that it was in this activation: it takes no deliveries.
    pub(crate) fn off(id: WebhookId, activation: i32) -> Self {
        let state = SnapshotState::Off;
        Self { id, activation, troubled: false, paused_until: None, max_per_second: None, state }
    }

    /// The saved URL; `None` if the webhook is not active.
    pub fn url(&self) -> Option<&str> {
        match &self.state {
            SnapshotState::Active { url, .. } => Some(url.as_str()),
            SnapshotState::Disabled | SnapshotState::Off => None,
        }
    }

    /// The present receiver. A pause that an earlier receiver asked for does not hold for it.
    pub fn receiver(&self) -> ReceiverId {
        let mut hasher = DefaultHasher::new();
        (self.activation, self.url()).hash(&mut hasher);
        ReceiverId(hasher.finish())
    }

    /// The webhook for a delivery that was looked up as `self`, when a later lookup found `newest` (`None`: it was deleted).
    /// If the webhook was switched off in between, it counts as off for this delivery, even if it is on again.
    pub fn updated_to(&self, newest: Option<&Arc<Self>>) -> Arc<Self> {
        let standing = newest.map(|newest| (newest.activation, newest.state.standing()));
        match (Standing::for_delivery(self.activation, standing), newest) {
            (Standing::Active | Standing::Disabled, Some(newest)) => newest.clone(),
            _ => Self { state: SnapshotState::Off, ..*self }.into(),
        }
    }
}

/// The receiver that a webhook has since it was last switched on or got another URL. Valid only within this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiverId(pub u64);

/// Whether a webhook takes deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its deliveries are attempted.
    Active,
    /// Disabled by this service: its deliveries are closed at once and can be recovered.
    Disabled,
    /// Switched off by its owner, or deleted.
    Off,
}

impl Standing {
    /// The standing of a webhook with these fields.
    pub(crate) fn of(active: bool, disabled_reason: Option<&str>) -> Self {
        match (active, disabled_reason) {
            (true, _) => Self::Active,
            (false, Some(_)) => Self::Disabled,
            (false, None) => Self::Off,
        }
    }

    /// The standing for a delivery that a lookup in the activation `activation_at_lookup` made, when a lookup now finds this
    /// activation and standing (`None`: the webhook was deleted).
    pub(crate) fn for_delivery(activation_at_lookup: i32, now: Option<(i32, Self)>) -> Self {
        match now {
            Some((_, Self::Disabled)) => Self::Disabled,
            Some((activation, standing)) if activation == activation_at_lookup => standing,
            _ => Self::Off,
        }
    }
}

/// Whether a webhook takes deliveries, with what is needed to call it if so.
#[derive(Debug)]
pub enum SnapshotState {
    /// See [`Standing::Active`].
    Active {
        /// Where requests go.
        url: SavedUrl,
        /// The keys for the signatures and the headers, or why one of them does not decrypt.
        secrets: Result<Box<Secrets>, OpenError>,
    },
    /// See [`Standing::Disabled`].
    Disabled,
    /// See [`Standing::Off`].
    Off,
}

impl SnapshotState {
    /// The state alone.
    pub fn standing(&self) -> Standing {
        match self {
            Self::Active { .. } => Standing::Active,
            Self::Disabled => Standing::Disabled,
            Self::Off => Standing::Off,
        }
    }
}

/// A URL as it was saved. The present settings may refuse it, so it is checked before it is called.
#[derive(Debug)]
pub struct SavedUrl {
    saved: String,
    /// Parsed once, not for each of the snapshot's deliveries.
    checked: OnceLock<Result<WebhookUrl, UrlRefusal>>,
}

impl SavedUrl {
    /// Nothing is checked yet.
    pub fn new(saved: String) -> Self {
        Self { saved, checked: OnceLock::new() }
    }

    /// The URL as it was saved.
    pub fn as_str(&self) -> &str {
        &self.saved
    }

    /// The URL to call. The answer for the first policy holds for later calls: the settings of a process do not change.
    ///
    /// # Errors
    ///
    /// The rule that the URL breaks.
    pub fn check(&self, policy: &UrlPolicy) -> Result<&WebhookUrl, &UrlRefusal> {
        self.checked.get_or_init(|| WebhookUrl::parse(&self.saved, policy)).as_ref()
    }
}

/// What a request is made with that is stored encrypted: the keys for its signatures, and the headers of the webhook's owner.
#[derive(Debug, Clone)]
pub struct Secrets {
    /// The key of the present secret.
    pub current: SigningKey,
    /// The key of the secret before the last regeneration, while it is still valid.
    pub previous: Option<SigningKey>,
    /// Sent after ours.
    pub headers: CustomHeaders,
}
