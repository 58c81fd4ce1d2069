//! What a worker reads of a webhook before it calls it: whether it takes deliveries, its URL and what requests are signed
//! with.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use crate::ids::WebhookId;
use crate::secret::OpenError;
use crate::signature::SigningKey;

/// What one lookup saw of a webhook: enough to call it, or the reason not to.
#[derive(Debug)]
pub struct Snapshot {
    pub id: WebhookId,
    /// Raised whenever the webhook is switched off; deliveries of an older one are cancelled.
    pub activation: i32,
    /// Whether its newest results that are recorded were failures: then a success changes its health.
    pub troubled: bool,
    /// Until when it gets nothing, by this process's clock, for its receiver asked for time. Past or `None`: it is not
    /// paused.
    pub paused_until: Option<Instant>,
    pub state: SnapshotState,
}

impl Snapshot {
    /// The saved URL, while it is active.
    pub fn url(&self) -> Option<&str> {
        match &self.state {
            SnapshotState::Active { url, .. } => Some(url),
            SnapshotState::Disabled | SnapshotState::Off => None,
        }
    }

    /// Names the receiver: another URL, or switching off and on, makes another one. What one asked for does not hold for
    /// the next.
    pub fn receiver(&self) -> ReceiverId {
        let mut hasher = DefaultHasher::new();
        (self.activation, self.url()).hash(&mut hasher);
        ReceiverId(hasher.finish())
    }

    /// The webhook for a delivery that is owed to this snapshot of it, when `newest` has been read since; `None` if it was
    /// deleted. For such a delivery a webhook stays off that was switched off meanwhile, even if it is on again.
    pub fn updated_to(&self, newest: Option<&Arc<Self>>) -> Arc<Self> {
        let standing = newest.map(|newest| (newest.activation, newest.state.standing()));
        match (Standing::for_owed(self.activation, standing), newest) {
            (Standing::Active | Standing::Disabled, Some(newest)) => newest.clone(),
            _ => Self { state: SnapshotState::Off, ..*self }.into(),
        }
    }
}

/// The receiver that a webhook has had since it was last switched on or got another URL. Means nothing outside this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiverId(pub u64);

/// Whether a webhook takes deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Active,
    /// Switched off by us: its deliveries are closed at once, so that they can be recovered.
    Disabled,
    /// Switched off by its owner, or deleted.
    Off,
}

impl Standing {
    /// What it is for a delivery that is owed since an activation, given the webhook's activation and standing now;
    /// `None` if it is gone.
    pub fn for_owed(owed_since: i32, now: Option<(i32, Self)>) -> Self {
        match now {
            Some((_, Self::Disabled)) => Self::Disabled,
            Some((activation, standing)) if activation == owed_since => standing,
            _ => Self::Off,
        }
    }
}

#[derive(Debug)]
pub enum SnapshotState {
    Active {
        /// As it was saved; it is checked again at every attempt.
        url: String,
        secrets: Result<Box<Secrets>, OpenError>,
    },
    Disabled,
    Off,
}

impl SnapshotState {
    pub fn standing(&self) -> Standing {
        match self {
            Self::Active { .. } => Standing::Active,
            Self::Disabled => Standing::Disabled,
            Self::Off => Standing::Off,
        }
    }
}

/// What a request is signed with.
#[derive(Debug, Clone)]
pub struct Secrets {
    pub current: SigningKey,
    /// Still valid for a while after a regeneration.
    pub previous: Option<SigningKey>,
}
